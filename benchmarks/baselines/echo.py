"""A plain Flask application that answers the JSON it was sent."""

from __future__ import annotations

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.post("/echo")
def echo() -> Response:
    """Answer what was sent."""
    return jsonify(request.get_json())


@app.get("/health/ready")
def ready() -> Response:
    """Say that requests are answered."""
    return jsonify(status="ready")
