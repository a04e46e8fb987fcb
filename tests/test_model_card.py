"A model card holds the run's own numbers, and nothing that a name smuggles in."

import json

import pytest

from masktune.runs.model_card import model_card, write_model_card
from masktune.runs.results import write_run

yaml = pytest.importorskip("yaml")


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def write(folder, data="photos", groups=True):
    metrics = ["accuracy", "worst_class_accuracy"]
    metrics += ["worst_group_accuracy"] * groups
    rows = [
        dict(data=data, method=m, seed=s, metric=k, value=v + 0.02 * s, weights=w)
        for m, v in (("ERM", 0.6), ("MaskTune", 0.7))
        for s in range(2)
        for k in metrics
        for w in ("best", "last")
    ]
    write_run(folder, rows, network="resnet18", epochs=3, weights="best")
    (folder / "masktune.pt").touch()
    config = json.loads((folder / "config.json").read_text())
    config["classes"] = ["cat", "do|g"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_numbers_of_the_run_are_on_the_card(tmp_path):
    card = write_model_card(write(tmp_path / "run")).read_text()
    results = {m["name"]: m["results"] for m in metadata(card)["model-index"]}
    assert set(results) == {"run, ERM", "run, MaskTune"}
    values = {
        r["metrics"][0]["type"]: r["metrics"][0]["value"]
        for r in results["run, MaskTune"]
    }
    assert values["accuracy"] == values["worst_group_accuracy"] == 0.71
    assert "71.0" in card and "`masktune.pt`" in card and r"do\|g" in card
    assert "| `network` | resnet18" in card and "No groups were known" not in card


def test_without_groups_the_card_says_so(tmp_path):
    card = model_card(write(tmp_path / "run", groups=False))
    assert "No groups were known" in card and "worst group on" not in card


def test_a_name_cannot_add_a_field_or_a_tag(tmp_path):
    name = 'x", type: y}\nlicense: evil\n---\n<script>alert(1)</script>'
    card = model_card(write(tmp_path / "run", data=name))
    head = metadata(card)
    assert "license" not in head
    dataset = head["model-index"][0]["results"][0]["dataset"]
    assert dataset["name"] == name and dataset["type"] == "test"
    body = card.split("\n---\n", 1)[1]
    assert "<script" not in body and "\nlicense" not in body
