"""Optimizers by type: settings, groups, ten real steps of each that runs here, exact resume, and clear words for those that cannot."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from guild.errors import UnknownOptimizerError
from guild.training.chat_template import CHATML_MARKS
from guild.training.collator import Collator
from guild.training.encoding import encode_rows
from guild.training.optimizers.factory import build_optimizer, load_optimizer_state
from guild.training.optimizers.groups import split, takes_decay, takes_muon
from guild.training.optimizers.optional import missing_packages
from guild.training.optimizers.settings import TYPES, optimizer_settings
from guild.training.packing import training_windows
from helpers.guild_tokenizers import conversation, tiny_tokenizer
from helpers.tiny_random import random_llama
from modelwright.errors import ConfigError, LoadError
from modelwright.tiny import tiny_model_path

TINY = tiny_tokenizer()


def _model() -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_model_path("modelwright/tiny-0.4m"))
    return model.train()


def _batch() -> dict[str, Any]:
    rows = [conversation(f"Say {n}", f"Here it comes: {n} and {n + 1}.", index=n) for n in range(8)]
    encoded = encode_rows(rows, TINY, marks=CHATML_MARKS, max_length=256)
    windows = training_windows(encoded.documents, 256, pad_id=TINY.pad_token_id, seed=0)
    return Collator(TINY.pad_token_id)([windows[at] for at in range(len(windows))])


def _steps(model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: dict[str, Any], count: int) -> list[float]:
    losses = []
    for _ in range(count):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_item_12_an_unknown_optimizer_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(
        UnknownOptimizerError, match=r"optimizer: found 'adamv'; allowed: adamw, muon, paged_adamw_8bit.*Did you mean 'adamw'"
    ):
        optimizer_settings("adamv")
    assert optimizer_settings("adamw_bnb_8bit").type == "adamw_8bit"


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        optimizer_settings({"type": "muon", "muon": {"ns_steps": 0, "momentum": 2, "hiden_lr": 1}, "adamw": {"lr": -1}})
    assert {fault.path for fault in caught.value.faults} == {
        "optimizer.muon.ns_steps",
        "optimizer.muon.momentum",
        "optimizer.muon.hiden_lr",
        "optimizer.adamw.lr",
    }


def test_defaults_are_the_specifications_and_the_configurations_rate_reaches_the_optimizer() -> None:
    plain = optimizer_settings("adamw")
    assert (plain.adamw.lr, plain.adamw.betas, plain.adamw.eps, plain.adamw.weight_decay) == (4e-4, (0.9, 0.999), 1e-8, 0.01)
    muon = optimizer_settings("muon").muon
    assert (muon.hidden_lr, muon.aux_lr, muon.momentum, muon.weight_decay) == (0.02, 3e-4, 0.95, 0.0)
    assert (muon.aux_betas, muon.aux_eps, muon.ns_steps) == ((0.9, 0.95), 1e-10, 5)
    galore = optimizer_settings("galore").galore
    assert (galore.rank, galore.update_proj_gap, galore.scale) == (128, 200, 0.25)
    assert optimizer_settings("paged_adamw_8bit", 2e-5).adamw.lr == 2e-5
    assert optimizer_settings({"type": "adamw", "adamw": {"lr": 1e-3}}, 2e-5).adamw.lr == 1e-3
    given = optimizer_settings("muon", 2e-5).muon
    assert (given.hidden_lr, given.aux_lr) == (0.02, 3e-4)


@pytest.mark.parametrize(
    ("name", "dimensions", "muon", "decay"),
    [
        ("model.layers.0.self_attn.q_proj.weight", 2, True, True),
        ("model.layers.0.mlp.experts.gate_up_proj", 3, True, True),
        ("model.layers.0.self_attn.q_proj.bias", 1, False, False),
        ("model.embed_tokens.weight", 2, False, True),
        ("transformer.wte.weight", 2, False, True),
        ("transformer.wpe.weight", 2, False, True),
        ("lm_head.weight", 2, False, True),
        ("score_head.weight", 2, False, True),
        ("model.layers.0.input_layernorm.weight", 1, False, False),
        ("model.layers.0.q_norm.weight", 2, False, False),
        ("transformer.h.0.ln_1.weight", 1, False, False),
        ("model.layers.0.Attention_Bias", 2, False, False),
        ("model.layers.0.gain", 1, False, True),
    ],
)
def test_the_name_rule(name: str, dimensions: int, muon: bool, decay: bool) -> None:
    assert (takes_muon(name, dimensions), takes_decay(name)) == (muon, decay)


def test_groups_hold_every_trainable_parameter_once_and_no_frozen_one() -> None:
    model = _model()
    frozen = model.get_input_embeddings().weight
    frozen.requires_grad_(False)
    for muon in (True, False):
        groups = split(model.named_parameters(), muon=muon)
        taken = [id(p) for p in (*groups.muon, *groups.decayed, *groups.undecayed)]
        assert sorted(taken) == sorted(id(p) for p in model.parameters() if p is not frozen)
        assert bool(groups.muon) is muon


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_item_50_ten_steps_lower_the_loss_and_the_info_is_true(kind: str) -> None:
    model = _model()
    optimizer, info = build_optimizer(model, optimizer_settings(kind))
    losses = _steps(model, optimizer, _batch(), 10)
    assert losses[-1] < losses[0] * 0.8
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (info.type, info.total_params, info.trainable_params) == (kind, total, total)
    assert info.muon_params + info.adam_params == total
    if kind == "muon":
        assert info.adam_params == sum(p.numel() for n, p in model.named_parameters() if "embed" in n or "norm" in n)
        assert (info.hidden_lr, info.aux_lr, info.learning_rate) == (0.02, 3e-4, 0.02)
    else:
        assert (info.muon_params, info.hidden_lr, info.aux_lr, info.learning_rate) == (0, None, None, 4e-4)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
        assert all(group["fused"] for group in optimizer.param_groups)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(kind: str) -> None:
    batch = _batch()
    whole = _model()
    _steps(whole, build_optimizer(whole, optimizer_settings(kind))[0], batch, 6)
    first = _model()
    optimizer, _ = build_optimizer(first, optimizer_settings(kind))
    _steps(first, optimizer, batch, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = _model()
    second.load_state_dict(first.state_dict())
    resumed, _ = build_optimizer(second, optimizer_settings(kind))
    load_optimizer_state(resumed, torch.load(file, weights_only=True))
    _steps(second, resumed, batch, 3)
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_change_of_settings_survives_loading_a_state(kind: str) -> None:
    batch = _batch()
    model = _model()
    old, _ = build_optimizer(model, optimizer_settings(kind))
    _steps(model, old, batch, 1)
    part = {"adamw": {"adamw": {"weight_decay": 0.5, "lr": 1e-5}}, "muon": {"muon": {"weight_decay": 0.5, "momentum": 0.5}}}[kind]
    new, _ = build_optimizer(model, optimizer_settings({"type": kind, **part}))
    load_optimizer_state(new, old.state_dict())
    assert new.param_groups[0]["weight_decay"] == 0.5
    assert new.param_groups[0]["momentum" if kind == "muon" else "lr"] == (0.5 if kind == "muon" else 1e-5)
    assert new.state_dict()["state"].keys() == old.state_dict()["state"].keys()


def test_muons_adamw_part_is_torchs_adamw() -> None:
    batch = _batch()
    models = [_model(), _model()]
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("embed" in name or "norm" in name)
    ours, info = build_optimizer(models[0], optimizer_settings("muon"))
    assert info.muon_params == 0
    theirs = torch.optim.AdamW(
        [p for p in models[1].parameters() if p.requires_grad], lr=3e-4, betas=(0.9, 0.95), eps=1e-10, weight_decay=0
    )
    _steps(models[0], ours, batch, 3)
    _steps(models[1], theirs, batch, 3)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw_8bit", "galore", "galore_8bit"])
def test_item_11_a_missing_package_is_said_and_nothing_stands_in(kind: str) -> None:
    missing = missing_packages(kind)
    if not missing:
        pytest.skip("the packages are installed; the sentence cannot be met")
    with pytest.raises(LoadError, match=f"optimizer {kind}: found no package .*pip install {' '.join(missing)}") as caught:
        build_optimizer(random_llama(), optimizer_settings(kind))
    assert caught.value.exit_code == 5


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("kind", "paged"), [("adamw_8bit", False), ("paged_adamw_8bit", True)])
def test_item_11_the_optimizer_built_is_eight_bit(kind: str, paged: bool) -> None:
    import bitsandbytes

    model = _model()
    optimizer, info = build_optimizer(model, optimizer_settings(kind, 2e-5))
    made = bitsandbytes.optim.PagedAdamW8bit if paged else bitsandbytes.optim.AdamW8bit
    assert type(optimizer) is made and optimizer.args.optim_bits == 8 and optimizer.is_paged is paged
    assert (info.type, info.learning_rate) == (kind, 2e-5)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw_8bit"])
def test_item_50_a_resumed_eight_bit_optimizer_goes_on_bit_for_bit(kind: str) -> None:
    """On a processor nothing is paged; the same way of loading puts the moments into pages on a GPU."""
    batch = _batch()
    whole, first, second = _model(), _model(), _model()
    _steps(whole, build_optimizer(whole, optimizer_settings(kind))[0], batch, 4)
    optimizer, _ = build_optimizer(first, optimizer_settings(kind))
    _steps(first, optimizer, batch, 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second.load_state_dict(first.state_dict())
    resumed, _ = build_optimizer(second, optimizer_settings(kind))
    load_optimizer_state(resumed, torch.load(file, weights_only=True))
    _steps(second, resumed, batch, 2)
    assert any(value.dtype is torch.uint8 for state in resumed.state.values() for value in state.values() if torch.is_tensor(value))
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), second.parameters(), strict=True))


def test_every_type_has_a_builder_or_names_its_package() -> None:
    for kind in TYPES:
        if missing_packages(kind):
            continue
        _, info = build_optimizer(random_llama(), optimizer_settings(kind))
        assert info.type == kind
