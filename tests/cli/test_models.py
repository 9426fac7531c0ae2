"""base and fuse, on a tiny base."""

import json
import re


def test_fuse_writes_a_folder(trained_store, mlx_tune_command, tmp_path):
    code, out, _ = mlx_tune_command("fuse", "--out", tmp_path / "fused", "--session", "cs")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("✓ 0001-cs-")
    assert re.fullmatch(
        r"change     \S+ % of the weights \(rms\); most in layer [01]: \S+ %", lines[1]
    )
    assert re.fullmatch(r"kept       all of it in float32, to \de-0\d of it", lines[2])
    assert lines[3].startswith("try it with: mlx_lm.generate --model ")
    assert (tmp_path / "fused" / "model.safetensors").exists()


def test_fuse_reports_as_json_what_the_folder_says_of_itself(
    trained_store, mlx_tune_command, tmp_path
):
    code, out, _ = mlx_tune_command("fuse", "--out", tmp_path / "fused", "--json")
    assert code == 0
    written = json.loads((tmp_path / "fused" / "mlx-tune.json").read_text())
    assert json.loads(out) == {"out": str(tmp_path / "fused"), **written}
    assert len(written["sessions"]) == 2


def test_fuse_quantises_and_says_what_is_known_after(trained_store, mlx_tune_command, tmp_path):
    code, out, error = mlx_tune_command("fuse", "--out", tmp_path / "f", "--quantise", "8:32")
    assert code == 0
    lines = out.splitlines()
    assert " in 8 bits" in lines[2]
    assert re.fullmatch(
        r"knows      cs 0 of 5 right \(0 before\), housing 0 of 5 right \(0 before\),"
        r" general answers [+-]\d\.\d\d nats a token \([+-]\d\.\d\d before\)",
        lines[3],
    )
    assert error == (
        "asking what it knows before…\nfolding and writing…\nasking the 8-bit model the same…\n"
    )
    assert mlx_tune_command("fuse", "--out", tmp_path / "g", "--quantise", "9")[0] == 2


def test_the_bare_base_has_nothing_to_keep(trained_store, mlx_tune_command, tmp_path):
    code, out, _ = mlx_tune_command("fuse", "--out", tmp_path / "f", "--session", "base")
    assert code == 0
    assert [line.split(" ")[0] for line in out.splitlines()] == ["✓", "try"]


def test_base_list_and_show(mlx_tune_command, tiny_base):
    code, out, _ = mlx_tune_command("base", "list")
    assert code == 0
    assert "  smollm2-135m " in out
    listed = json.loads(mlx_tune_command("base", "list", "--json")[1])
    assert [entry["here"] for entry in listed] == [False] * 5
    code, out, _ = mlx_tune_command("base", "show", tiny_base)
    assert code == 0
    assert "hidden size   32" in out
    shown = json.loads(mlx_tune_command("base", "show", tiny_base, "--json")[1])
    assert len(shown["fingerprint"]) == 64
