"""Facts about loading: names, overrides, and the wording of each refusal."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from disaggc.errors import DeclarationError, UnknownTargetError
from disaggc.library import shelf
from disaggc.targets import load_library

Edited = Callable[[str, str, str], Path]


@pytest.fixture(name="edited")
def _edited(tmp_path: Path) -> Edited:
    """Makes a user's library that holds one shipped file with one text replaced."""

    def edit(name: str, old: str, new: str) -> Path:
        target = tmp_path / "targets" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shelf("targets") / name, target)
        text = target.read_text(encoding="utf-8")
        assert old in text
        target.write_text(text.replace(old, new, 1), encoding="utf-8")
        return tmp_path

    return edit


def refusal(library: Path) -> str:
    with pytest.raises(DeclarationError) as caught:
        load_library(library)
    return str(caught.value)


def test_an_unknown_system_gives_the_nearest() -> None:
    message = r"No target named 'h100-x9' in targets/systems\. Did you mean 'h100-x8'"
    with pytest.raises(UnknownTargetError, match=message):
        load_library().system("h100-x9")


def test_an_unknown_tier_gives_the_nearest() -> None:
    message = r"No target named 'gtc2026/premum' in targets/tiers\. Did you mean 'gtc2026/premium'"
    with pytest.raises(UnknownTargetError, match=message):
        load_library().tier("gtc2026/premum")


def test_an_unknown_device_or_link_is_refused() -> None:
    with pytest.raises(UnknownTargetError, match=r"'rubim' in targets/devices\. Did you mean 'rubin'"):
        load_library().device("rubim")
    with pytest.raises(UnknownTargetError, match=r"'nvlink7' in targets/links\. Did you mean 'nvlink"):
        load_library().link("nvlink7")


def test_a_bad_unit_names_file_field_and_known_units(edited: Edited) -> None:
    message = refusal(edited("devices/lp30.toml", 'unit = "MB"', 'unit = "MBs"'))
    assert re.search(
        r"lp30\.toml, at memories\.0\.capacity: Unknown unit 'MBs'\. Known units: B, kB", message
    )


def test_an_unknown_key_gives_the_nearest(edited: Edited) -> None:
    message = refusal(edited("systems/cs3.toml", "price_usd =", "price_usds ="))
    assert message.endswith("cs3.toml: Unknown key 'price_usds'. Did you mean 'price_usd'?")


def test_an_unknown_key_of_a_figure_gives_the_nearest(edited: Edited) -> None:
    message = refusal(edited("links/nvlink6.toml", "low =", "lo ="))
    assert "nvlink6.toml, at latency: Unknown key 'lo'." in message


def test_a_missing_field_is_named(edited: Edited) -> None:
    message = refusal(edited("devices/h100.toml", 'vendor = "NVIDIA"\n', ""))
    assert message.endswith("h100.toml: Key 'vendor' is missing.")


def test_a_figure_without_a_source_is_refused(edited: Edited) -> None:
    message = refusal(edited("devices/h100.toml", 'source = "SA-SPECS", ', ""))
    assert "Key 'source' is missing." in message


def test_an_unknown_source_tag_gives_the_nearest(edited: Edited) -> None:
    message = refusal(edited("devices/rubin.toml", "NV-VR-PAGE", "NV-VR-PAG"))
    assert message.endswith(
        "rubin.toml, at memories.hbm.capacity.source: No source tagged 'NV-VR-PAG' in targets/sources.toml. "
        "Did you mean 'NV-VR-PAGE'?"
    )


def test_an_unknown_confidence_is_refused(edited: Edited) -> None:
    message = refusal(edited("devices/lp30.toml", 'confidence = "P"', 'confidence = "X"'))
    assert "lp30.toml, at compute.fp8.confidence: Unknown confidence 'X'." in message


def test_an_inferred_figure_without_a_note_is_refused(edited: Edited) -> None:
    message = refusal(edited("links/upi.toml", ', note = "From memory, not looked up."', ""))
    assert "upi.toml, at latency: A figure of confidence 'I' needs a 'note'" in message


def test_a_system_with_an_unknown_device_gives_the_nearest(edited: Edited) -> None:
    message = refusal(edited("systems/vr-nvl72.toml", '"rubin"', '"rubinn"'))
    assert message.endswith(
        "vr-nvl72.toml, at device: No target named 'rubinn' in targets/devices. Did you mean 'rubin'?"
    )


def test_an_unknown_kind_or_format_is_refused(edited: Edited) -> None:
    assert "Unknown kind 'tpu'." in refusal(edited("devices/h100.toml", '"gpu"', '"tpu"'))
    assert "Unknown format 'fp6'." in refusal(edited("devices/h100.toml", '"fp4"', '"fp6"'))


def test_a_name_is_where_a_declaration_stands(edited: Edited) -> None:
    message = refusal(edited("devices/h100.toml", "vendor =", 'name = "mine"\nvendor ='))
    assert message.endswith("h100.toml: Unknown key 'name'; it is called 'h100' by where it stands.")


def test_a_file_that_is_no_toml_is_refused(edited: Edited) -> None:
    assert "h100.toml' is not TOML" in refusal(edited("devices/h100.toml", "vendor =", "vendor"))


def test_a_tier_in_another_unit_than_its_name_says_is_refused(edited: Edited) -> None:
    message = refusal(edited("tiers/gtc2026.toml", 'unit = "ms"', 'unit = "s"'))
    assert "gtc2026.toml, [free]: 'ttft_ms' is in 's'; expected 'ms'." in message


def test_a_users_file_hides_the_shipped_one_of_its_name(edited: Edited) -> None:
    library = load_library(edited("devices/rubin.toml", "value = 288", "value = 300"))
    assert library.device("rubin").main.capacity.si == 300e9
    assert library.system("vr-nvl72").device.main.capacity.si == 300e9
    assert load_library().device("rubin").main.capacity.si == 288e9


def test_a_users_file_adds_to_the_shipped_ones(edited: Edited) -> None:
    folder = edited("systems/h100-x8.toml", "HGX H100", "My H100")
    (folder / "targets/systems/h100-x8.toml").rename(folder / "targets/systems/my-h100.toml")
    library = load_library(folder)
    assert library.system("my-h100").title.startswith("My H100")
    assert library.system("h100-x8").title.startswith("HGX H100")


def test_a_users_sources_add_to_the_shipped_ones(edited: Edited) -> None:
    folder = edited("devices/rubin.toml", "NV-VR-PAGE", "MY-LAB")
    own = '# Carried out by disaggc/targets/source.py.\n[MY-LAB]\ntitle = "Lab"\nurl = ""\ndate = "2026"\n'
    (folder / "targets/sources.toml").write_text(own, encoding="utf-8")
    library = load_library(folder)
    assert library.device("rubin").main.capacity.source == "MY-LAB"
    assert "NV-VR-PAGE" in library.sources


def test_a_source_without_a_title_is_refused(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/sources.toml").write_text('[MY-LAB]\nurl = ""\ndate = "2026"\n', encoding="utf-8")
    assert refusal(tmp_path).endswith("sources.toml, [MY-LAB]: Key 'title' is missing.")
