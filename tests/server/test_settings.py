"""Settings: read once, and a bad one is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from rmi_agent.kernels import Launch
from rmi_agent.server import load
from rmi_agent.server.settings import BadSettings


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load()
    assert (settings.python_timeout, settings.response_deadline) == (30, 45)
    assert (settings.kernel_pool, settings.kernel_max, settings.session_idle) == (2, 16, 1800)
    assert (settings.host, settings.port, settings.kernel_name) == ("127.0.0.1", 8000, "python3")
    assert settings.projects.name == "python_projects"
    assert settings.notebooks == settings.projects.parent / "notebooks"


def test_notebooks_lie_beside_the_projects_folder_unless_set(tmp_path: Path) -> None:
    assert load(python_projects_dir=tmp_path / "p").notebooks == tmp_path / "notebooks"
    assert load(notebooks_dir=tmp_path / "n").notebooks == tmp_path / "n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHON_TIMEOUT", "soon"),
        ("PYTHON_TIMEOUT", "-1"),
        ("KERNEL_POOL", "-1"),
        ("KERNEL_MAX", "0"),
        ("PORT", "99999"),
        ("PORT", ""),
        ("KERNEL_NAME", ""),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as error:
        load()
    assert str(error.value).startswith(f"{name}: ")
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="^PYTHON_PROJECTS_DIR: can't use"):
        load(python_projects_dir=tmp_path / "file" / "p").make_folders()


def test_dotenv_is_read_but_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PYTHON_TIMEOUT=7\nOPENAI_API_KEY=sk-secret\n")
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings.python_timeout == 7
    assert "OPENAI_API_KEY" not in settings.launch().env


def test_kernels_inherit_an_allowlist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MY_FLAG", "1")
    assert {"OPENAI_API_KEY", "MY_FLAG"}.isdisjoint(load().launch().env)
    assert "PATH" in load().launch().env
    monkeypatch.setenv("KERNEL_ENV", "MY_FLAG, OTHER")
    assert load().launch().env["MY_FLAG"] == "1"


def test_what_kernels_preload_is_what_the_library_would() -> None:
    assert load().kernel_preload == Launch.preload  # written twice: settings import no kernels
