"""What a run says of its input pipeline."""

import json
import time

import pytest

from jaxconv.data import pipeline
from jaxconv.train import train


@pytest.fixture
def slow_pipeline(monkeypatch):
    fast = pipeline.train_batches

    def slow(*arguments, **keywords):
        for batch in fast(*arguments, **keywords):
            time.sleep(0.05)
            yield batch

    monkeypatch.setattr(pipeline, "train_batches", slow)


@pytest.mark.usefixtures("slow_pipeline")
def test_a_pipeline_that_cannot_keep_up_is_named_once_with_the_figure(tiny, tmp_path, capsys):
    train(tiny, tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot keep up" in line]
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 2
    assert all(record["data_wait"] > 0.1 for record in history)
    assert len(said) == 1
    assert f"waited for data {history[0]['data_wait']:.0%} of epoch 1" in said[0]
