"""The command itself: quick help, JSON, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from macprovider.models_cli import main

COMMANDS = ("pull", "list", "verify", "export-gguf", "candidates")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy_and_shows_an_example(command: str) -> None:
    script = (
        "import sys\nfrom macprovider.models_cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub', 'gguf', 'httpx2', 'pydantic'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *command.split(), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "macprovider-cli models" in done.stdout and "example" in done.stdout


def test_the_main_help_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    codes = [line.split()[0] for line in text.partition("exit codes:")[2].splitlines() if line.strip()]
    assert codes == ["0", "1", "2", "4", "7", "130"]


def test_candidates_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["candidates", "--engine", "mlx", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["params_b"] for entry in found["mlx"]] == [32, 14, 7, 3, 1]
    assert main(["candidates"]) == 0
    assert capsys.readouterr().out.count("Qwen2.5-32B-Instruct") == 5


def test_the_list_of_an_empty_cache_has_the_packaged_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cache"] == str(tmp_path / "hub")
    assert [model["id"] for model in found["models"]] == ["modelwright/tiny-0.4m", "modelwright/tiny-1.5m", "modelwright/tiny-5m"]
    assert all(model["complete"] and model["source"] == "packaged" and model["bits"] == 16 for model in found["models"])
    assert [round(model["parameters"] / 1e6, 1) for model in found["models"]] == [0.4, 1.6, 4.7]
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    "arguments",
    [["verify"], ["verify", "a/b", "--all"], ["pull", "a/b", "--timeout", "0"], ["pull", "a/b", "--timeout", "nan"]],
)
def test_wrong_arguments_are_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "found" in capsys.readouterr().err


def test_verifying_what_is_not_here_is_transient(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "acme/none"]) == 4
    assert "models pull acme/none" in capsys.readouterr().err


def test_a_quantised_model_is_listed_by_its_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--acme--m-3B-4bit" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "strange", "quantization": {"bits": 4, "group_size": 64}}))
    assert main(["list", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["models"][-1]
    assert (model["id"], model["bits"], model["parameters"], model["complete"]) == ("acme/m-3B-4bit", 4, 3_000_000_000, False)


def test_a_damaged_file_of_a_folder_cannot_be_pulled_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from modelwright.tiny import tiny_model_path

    folder = tmp_path / "mine"
    shutil.copytree(tiny_model_path("modelwright/tiny-0.4m"), folder)
    (folder / "model.safetensors").write_bytes(b"short")
    assert main(["pull", str(folder)]) == 7
    told = capsys.readouterr().err
    assert "model.safetensors is damaged" in told and "Put a whole copy of it there" in told and "pull the model again" not in told
