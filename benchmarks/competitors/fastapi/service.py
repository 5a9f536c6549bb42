"""A FastAPI service as published projects write it: pydantic, scikit-learn, SQLAlchemy, uvicorn.

Its models are in the memory of each worker, which trains them when it starts. What computes for a
moment is `async`, which spares it the thread pool; what waits for the database, or computes for
long, is not.
"""
# ruff: noqa: D101, D103 (published projects let these names speak)

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import sample
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import mean_squared_error, r2_score
from sqlalchemy import DateTime, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

engine = create_engine(os.environ["DATABASE_URL"])
SessionLocal = sessionmaker(engine)
app = FastAPI(title="items and models")
models: dict[str, Any] = {
    "default": sample.fit(*sample.make_sample())[0],
    "wide": sample.fit(*sample.make_rows())[0],
}


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), index=True)
    description: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=now, onupdate=now
    )


class NewItem(BaseModel):
    name: str = Field(min_length=1, max_length=255)
    description: str = ""


class ItemAnswer(NewItem):
    model_config = ConfigDict(from_attributes=True)

    id: int
    created_at: datetime
    updated_at: datetime


class TrainingRequest(BaseModel):
    X: list[list[float]]
    y: list[float]


class TrainingAnswer(BaseModel):
    message: str
    metrics: dict[str, float]


class PredictionRequest(BaseModel):
    features: list[float]


class PredictionAnswer(BaseModel):
    prediction: float


class BatchRequest(BaseModel):
    instances: list[list[float]]


class BatchAnswer(BaseModel):
    predictions: list[float]


def open_session() -> Iterator[Session]:
    with SessionLocal() as session:
        yield session


OpenSession = Annotated[Session, Depends(open_session)]


def find_model(name: str) -> Any:
    if name not in models:
        raise HTTPException(404, "model not trained")
    return models[name]


@app.post("/api/v1/ml/predict")
async def predict(request: PredictionRequest) -> PredictionAnswer:
    prediction = find_model("default").predict(np.array([request.features]))
    return PredictionAnswer(prediction=float(prediction[0]))


@app.post("/api/v1/ml/models/{name}/predict/batch")
async def predict_batch(name: str, request: BatchRequest) -> BatchAnswer:
    predictions = find_model(name).predict(np.array(request.instances))
    return BatchAnswer(predictions=predictions.tolist())


@app.post("/api/v1/ml/models/{name}/train", status_code=201)
def train(name: str, request: TrainingRequest) -> TrainingAnswer:
    model, test_X, test_y = sample.fit(np.array(request.X), np.array(request.y))
    predictions = model.predict(test_X)
    models[name] = model
    metrics = {
        "mse": float(mean_squared_error(test_y, predictions)),
        "r2_score": float(r2_score(test_y, predictions)),
    }
    return TrainingAnswer(message="Model trained successfully", metrics=metrics)


@app.post("/api/v1/items", status_code=201)
def create_item(new_item: NewItem, session: OpenSession) -> ItemAnswer:
    item = Item(**new_item.model_dump())
    session.add(item)
    session.commit()
    session.refresh(item)
    return ItemAnswer.model_validate(item)


@app.get("/api/v1/items/{item_id}")
def read_item(item_id: int, session: OpenSession) -> ItemAnswer:
    item = session.get(Item, item_id)
    if item is None:
        raise HTTPException(404, "item not found")
    return ItemAnswer.model_validate(item)


@app.get("/api/v1/items")
def list_items(
    session: OpenSession,
    page: Annotated[int, Query(ge=1)] = 1,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[ItemAnswer]:
    offset = (page - 1) * page_size
    items = session.scalars(select(Item).order_by(Item.id).offset(offset).limit(page_size))
    return [ItemAnswer.model_validate(item) for item in items]


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    port, level = int(sys.argv[1]), os.environ["LOG_LEVEL"]  # at info it logs each request
    log = level == "info"
    uvicorn.run("service:app", port=port, workers=2, access_log=log, log_level=level)
