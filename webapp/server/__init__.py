"""The server under the application: a gunicorn worker, and HTTP/1.1 to WSGI and back."""
