from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.tiny_random import random_llama
from modelwright.errors import ConfigError, LoadError
from scaler_wizard import strategies
from scaler_wizard.adaptive_scaling import HardwareProfile, ScalingTargets
from scaler_wizard.strategies import StrategyPlan
from scaler_wizard.strategies.lora import is_tied, trainable_share, trained_whole

PLAN = StrategyPlan("lora", rank=4, alpha=8, dropout=0.0)
WHOLE = StrategyPlan("lora", rank=4, alpha=8, dropout=0.0, train_embeddings=True)
IDS = torch.arange(24).reshape(1, 24) % 260


def trained(model: torch.nn.Module, steps: int = 3) -> torch.nn.Module:
    """A few real optimizer steps, so that adapters are not at their zero start."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


def test_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean lora"):
        strategies.get("lorra")


def test_qlora_is_refused_by_name_without_a_gpu() -> None:
    support = strategies.get("qlora").supports({}, HardwareProfile(0.0, gpu_count=0))
    assert not support.ok
    assert "no CUDA device is visible" in support.reason and "--strategy lora" in support.reason


def test_lora_refuses_a_base_that_is_stored_quantised() -> None:
    support = strategies.get("lora").supports({"quantization_config": {"bits": 4}}, HardwareProfile(24.0))
    assert not support.ok and "qlora" in support.reason


def test_plan_follows_the_adaptive_rule() -> None:
    plan = strategies.get("lora").plan(ScalingTargets(1.1, 1, 8), HardwareProfile(24.0), {})
    assert (plan.rank, plan.alpha, plan.train_embeddings) == (6, 18, True)
    assert plan.dropout == pytest.approx(0.19)


def test_adapters_start_as_no_change_and_leave_the_head_alone() -> None:
    base = random_llama()
    before = logits(base)
    model = strategies.get("lora").prepare(base, PLAN)
    assert torch.equal(logits(model.eval()), before)
    assert not any("lm_head" in name or "embed" in name for name, p in model.named_parameters() if p.requires_grad)


def test_trained_embeddings_keep_the_tie_and_merge_to_the_same_logits() -> None:
    base = random_llama(tie_word_embeddings=True)
    model = trained(strategies.get("lora").prepare(base, WHOLE))
    inner = model.get_base_model()
    embedding = inner.model.embed_tokens.modules_to_save["default"].weight
    head = inner.lm_head.modules_to_save["default"].weight
    assert embedding is head
    expected = logits(model)
    merged = model.merge_and_unload().eval()
    assert is_tied(merged)
    assert (logits(merged) - expected).abs().max() < 1e-4


def test_untied_embeddings_train_without_the_head() -> None:
    model = strategies.get("lora").prepare(random_llama(tie_word_embeddings=False), WHOLE)
    names = [name for name, p in model.named_parameters() if p.requires_grad and "modules_to_save" in name]
    assert any("embed_tokens" in name for name in names) and not any("lm_head" in name for name in names)


def test_whole_modules_are_embedding_and_norms() -> None:
    assert trained_whole(random_llama()) == ["embed_tokens", "input_layernorm", "norm", "post_attention_layernorm"]


def test_share_counts_tied_tensors_once_and_no_frozen_copies() -> None:
    base = random_llama()
    parameters = sum(p.numel() for p in base.parameters())
    adapters = strategies.get("lora").prepare(base, PLAN)
    share = trainable_share(adapters)
    assert share.total == parameters + share.trainable
    whole = trainable_share(strategies.get("lora").prepare(random_llama(), WHOLE))
    norms = 5 * 64
    assert whole.trainable == share.trainable + 260 * 64 + norms
    assert whole.total == share.total
    assert "%" in whole.sentence()


@pytest.mark.parametrize("plan", [PLAN, WHOLE], ids=["adapters", "with embeddings"])
def test_save_and_load_are_bit_exact(plan: StrategyPlan, tmp_path: Path) -> None:
    strategy = strategies.get("lora")
    model = trained(strategy.prepare(random_llama(), plan))
    strategy.save(model, tmp_path)
    assert not list(tmp_path.glob("*.bin")) and not (tmp_path / "README.md").exists()
    around = strategy.load(random_llama(), tmp_path).eval()
    into = strategy.load(strategy.prepare(random_llama(), plan), tmp_path).eval()
    assert torch.equal(logits(around), logits(model))
    assert torch.equal(logits(into), logits(model))
    assert all(p.requires_grad for name, p in into.named_parameters() if "lora_" in name)


def test_unload_gives_the_original_weights_back() -> None:
    before = logits(random_llama())
    model = trained(strategies.get("lora").prepare(random_llama(), WHOLE))
    assert torch.equal(logits(strategies.get("lora").unload(model).eval()), before)


def test_loading_names_what_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    strategy = strategies.get("lora")
    with pytest.raises(LoadError, match=r"holds no adapter_config\.json"):
        strategy.load(random_llama(), tmp_path)
    strategy.save(strategy.prepare(random_llama(num_hidden_layers=3), PLAN), tmp_path)
    with pytest.raises(LoadError, match="no place for"):
        strategy.load(strategy.prepare(random_llama(num_hidden_layers=2), PLAN), tmp_path)
