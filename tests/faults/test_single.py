"""A few single faults in a run's files, of each kind; `make faults` has 200."""

from pathlib import Path

import pytest

from tests.faults.single import Material, overrides_of, plant_in

FAULTS = {  # and how a look at the run ends, and going on with it
    "model.json": ("flip", "sentence", "sentence"),
    "config.yaml": ("cut", "sentence", "sentence"),
    "evaluation/step_000006.json": ("flip", "sentence", "sentence"),
    "metrics.jsonl": ("half", "same", "sentence"),
    "data/held_out.npz": ("delete", "sentence", "sentence"),
}


@pytest.fixture(scope="module")
def material(tmp_path_factory, compilation_cache):
    return Material(tmp_path_factory.mktemp("single"), overrides_of(str(compilation_cache)))


def largest(material, folder):
    files = [file for file in material.files if f"{folder}/" in str(file)]
    return max(files, key=lambda file: (material.root / file).stat().st_size)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_text_or_in_data_is_seen_by_who_reads_it(material, name):
    kind, looked, went_on = FAULTS[name]
    found = plant_in(material, material.path.relative_to(material.root) / name, kind, 1)
    assert found["ends"] == {"look": looked, "go_on": went_on}, found


@pytest.mark.parametrize("kind", ["flip", "half"])
def test_a_fault_in_a_checkpoint_refuses_a_look_and_costs_a_run_the_steps_after_the_one_before_it(material, kind):
    found = plant_in(material, largest(material, "v/checkpoints/6"), kind, 1)
    assert found["ends"] == {"look": "sentence", "go_on": "same"}, found
    assert found["said"]["go_on"]


def test_a_fault_in_the_model_that_a_run_began_from_is_no_other_reference(material):
    found = plant_in(material, largest(material, "fitted"), "flip", 1)
    assert found["ends"] == {"look": "same", "go_on": "sentence"}, found
    assert "fitted" in found["said"]["go_on"]
    assert Path(found["file"]).parts[0] == "bases"
