"""The canonical sentence: one short plain sentence per decision, the same in voice and on screen (at most 120 characters).

Texts are fixed templates per language; no model ever writes them. A job may put its own sentence in the place of all of
them (`alerts.canonical_sentence`).
"""

from __future__ import annotations

from typing import Any, Literal

SENTENCE_LIMIT = 120
Kind = Literal["gate", "stop", "warn", "done", "running", "paused", "aborted", "failed"]

_TEXTS: dict[str, dict[str, str]] = {
    "en-US": {
        "gate": "Extend context from {from_length} to {to_length} tokens, expected quality change {change}: approve?",
        "stop": "Stopped at step {step}: {reason}. Recommended: {action}.",
        "warn": "Warning at step {step}: {reason}.",
        "done": "Done: context {context} tokens, {scores}.",
        "running": "Training at {context} tokens, phase {phase}.",
        "paused": "Paused at {context} tokens: {reason}.",
        "aborted": "Aborted by {actor}: {reason}.",
        "failed": "Failed: {reason}.",
    },
    "pt-BR": {
        "gate": "Estender o contexto de {from_length} para {to_length} tokens, mudança esperada {change}: aprovar?",
        "stop": "Parado no passo {step}: {reason}. Recomendado: {action}.",
        "warn": "Aviso no passo {step}: {reason}.",
        "done": "Concluído: contexto de {context} tokens, {scores}.",
        "running": "Treinando com {context} tokens, fase {phase}.",
        "paused": "Pausado em {context} tokens: {reason}.",
        "aborted": "Interrompido por {actor}: {reason}.",
        "failed": "Falhou: {reason}.",
    },
    "es-ES": {
        "gate": "¿Ampliar el contexto de {from_length} a {to_length} tokens, cambio esperado {change}: aprobar?",
        "stop": "Detenido en el paso {step}: {reason}. Recomendado: {action}.",
        "warn": "Aviso en el paso {step}: {reason}.",
        "done": "Terminado: contexto de {context} tokens, {scores}.",
        "running": "Entrenando con {context} tokens, fase {phase}.",
        "paused": "En pausa con {context} tokens: {reason}.",
        "aborted": "Cancelado por {actor}: {reason}.",
        "failed": "Falló: {reason}.",
    },
    "fr-FR": {
        "gate": "Étendre le contexte de {from_length} à {to_length} jetons, effet attendu {change} : approuver ?",
        "stop": "Arrêt au pas {step} : {reason}. Conseil : {action}.",
        "warn": "Avertissement au pas {step} : {reason}.",
        "done": "Terminé : contexte de {context} jetons, {scores}.",
        "running": "Entraînement à {context} jetons, phase {phase}.",
        "paused": "En pause à {context} jetons : {reason}.",
        "aborted": "Interrompu par {actor} : {reason}.",
        "failed": "Échec : {reason}.",
    },
    "de-DE": {
        "gate": "Kontext von {from_length} auf {to_length} Tokens erweitern, erwartete Änderung {change}: freigeben?",
        "stop": "Gestoppt bei Schritt {step}: {reason}. Empfohlen: {action}.",
        "warn": "Warnung bei Schritt {step}: {reason}.",
        "done": "Fertig: Kontext {context} Tokens, {scores}.",
        "running": "Training bei {context} Tokens, Phase {phase}.",
        "paused": "Angehalten bei {context} Tokens: {reason}.",
        "aborted": "Abgebrochen von {actor}: {reason}.",
        "failed": "Fehlgeschlagen: {reason}.",
    },
    "zh-CN": {
        "gate": "将上下文从 {from_length} 扩展到 {to_length} 个词元，预期质量变化 {change}：是否批准？",
        "stop": "在第 {step} 步停止：{reason}。建议：{action}。",
        "warn": "第 {step} 步警告：{reason}。",
        "done": "完成：上下文 {context} 个词元，{scores}。",
        "running": "正在以 {context} 个词元训练，阶段 {phase}。",
        "paused": "在 {context} 个词元处暂停：{reason}。",
        "aborted": "由 {actor} 中止：{reason}。",
        "failed": "失败：{reason}。",
    },
}
LANGUAGES = tuple(_TEXTS)


def canonical_sentence(kind: Kind, language: str = "en-US", override: str | None = None, **values: Any) -> str:
    """The sentence for a decision, cut to 120 characters; an unknown language reads English.

    Values per kind: gate from_length, to_length, change · stop step, reason, action · warn step, reason ·
    done context, scores · running context, phase · paused context, reason · aborted actor, reason · failed reason.
    A sentence that is too long gives up the end of its reason or scores first, so that the advice after it stays readable.
    A missing value raises KeyError: a sentence with a hole is a programming mistake.
    """
    if override:
        return shorten(override)
    template = _TEXTS.get(language, _TEXTS["en-US"])[kind]
    text = _filled(template, values)
    for name in ("reason", "scores", "change"):
        over = len(text) - SENTENCE_LIMIT
        if over > 0 and name in values:
            room = max(1, len(str(values[name])) - over)
            text = _filled(template, {**values, name: shorten(str(values[name]), room)})
    return shorten(text)


def _filled(template: str, values: dict[str, Any]) -> str:
    return " ".join(template.format_map(values).split())


def shorten(text: str, limit: int = SENTENCE_LIMIT) -> str:
    """`text` in at most `limit` characters, cut at a word where possible and marked with an ellipsis."""
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > limit // 2 else cut).rstrip(" ,;:.") + "…"
