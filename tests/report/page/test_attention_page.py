from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace

import numpy as np

from hjepa_eval.report.page.attention import Explorer, PackedShares, ShownLevel, attention_page, pack_shares, show_image

HOSTILE = '</script><script>alert("1")</script>'


def unpack(packed: PackedShares, shape: tuple[int, ...]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(packed.steps), "<u2").reshape(shape)
    largest = np.frombuffer(base64.b64decode(packed.largest), "<f4").reshape(shape[:-1])
    return steps * (largest.astype(np.float64)[..., None] / 65535)


def random_shares(*shape: int, sharpness: float = 3.0) -> np.ndarray:
    weights = np.exp(np.random.default_rng(0).normal(size=shape) * sharpness)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def explorer(**changes: object) -> Explorer:
    shares = random_shares(2, 3, 5, 5)
    image = show_image(7, HOSTILE, picture=b"png", attention=shares, rollout=shares[:, 0])
    page = Explorer(
        model="a<b>",
        dataset="digits",
        split="test",
        image_size=8,
        grid=(2, 2),
        prefix_names=("class token",),
        blocks=(1, 2),
        heads=3,
        levels=(ShownLevel(0, "block 1 & co", 1),),
        images=(image,),
        command="hjepa attention --model 'a<b>'",
        made_with="Seed 0.",
    )
    return replace(page, **changes)


def test_pack_shares__error_is_below_1e_5_of_the_rows_largest() -> None:
    for sharpness in (0.01, 1.0, 10.0):
        shares = random_shares(3, 40, 200, sharpness=sharpness)
        error = np.abs(unpack(pack_shares(shares), shares.shape) - shares)
        assert (error < 1e-5 * shares.max(-1, keepdims=True)).all()


def test_pack_shares__one_token_that_gets_all_and_a_row_of_nothing() -> None:
    shares = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(unpack(pack_shares(shares), (2, 2)), shares)


def test_attention_page__names_from_data_are_text() -> None:
    page = attention_page(explorer())
    assert "alert(" not in page.replace("alert(&#34;1&#34;)", "")
    assert "a&lt;b&gt;" in page
    assert "block 1 &amp; co" in page
    assert page.count("<script") == page.count("</script>") == 2


def test_attention_page__its_policy_allows_its_own_script_and_nothing_from_outside() -> None:
    page = attention_page(explorer())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    script = re.search(r"<script>(.*?)</script>", page, flags=re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []


def test_attention_page__holds_the_numbers() -> None:
    page = attention_page(explorer())
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, flags=re.DOTALL)[1])
    assert data["grid"] == [2, 2]
    found = unpack(PackedShares(**data["images"][0]["attention"]), (2, 3, 5, 5))
    np.testing.assert_allclose(found, random_shares(2, 3, 5, 5), atol=1e-5)


def test_shown_image__size_is_what_it_adds_to_the_page() -> None:
    page = explorer()
    added = len(attention_page(page)) - len(attention_page(replace(page, images=())))
    assert 0 <= page.images[0].size - added < 1000
