"""`lag encode`: a folder of documents becomes knowledge adapters of a library."""

from __future__ import annotations

import typer

from lag_engine.cli import encode_options as option
from lag_engine.cli.encode_method import EncodingMethod, layers_of, targets_of
from lag_engine.cli.encode_report import show_losses, show_report, show_translator
from lag_engine.cli.encode_run import Source, Steps, bring_up_to_date, tell_status


def encode(
    folder: option.Folder,
    library: option.Library,
    model: option.Model = None,
    method: option.Method = "prag",
    status: option.Status = False,
    pairs: option.Pairs = None,
    any_answer: option.AnyAnswer = False,
    augment: option.Write = "none",
    allow_plain: option.AllowPlain = False,
    passage_tokens: option.PassageTokens = 256,
    prefix: option.Prefix = "",
    collection: option.Collection = None,
    questions: option.Questions = "after text",
    rank: option.Rank = 2,
    alpha: option.Alpha = 32.0,
    targets: option.Targets = "gate_proj,up_proj,down_proj",
    layers: option.Layers = None,
    learning_rate: option.LearningRate = 3e-4,
    epochs: option.Epochs = 2,
    batch_size: option.BatchSize = 1,
    clip: option.Clip = None,
    stop_loss: option.StopLoss = None,
    shared_lora_a: option.SharedLoraA = False,
    latents: option.Latents = None,
    top_k: option.TopK = None,
    routing_epochs: option.RoutingEpochs = None,
    translator_epochs: option.TranslatorEpochs = None,
    translator_rate: option.TranslatorRate = None,
    seed: option.Seed = 0,
    memory_gib: option.MemoryGib = 2.0,
    loss_log: option.LossLog = None,
    device: option.Device = "auto",
    quiet: option.Quiet = False,
) -> None:
    """Bring a library up to date with a folder: new, changed, stale and deleted documents.

    Cut off anywhere, it goes on when it is run again, after the last group of passages (up to 64)
    that was finished. Exits with 1 if some file could
    not be read.
    """
    common = {
        "rank": rank,
        "alpha": alpha,
        "targets": targets_of(targets),
        "layers": layers_of(layers),
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_size": batch_size,
        "questions": questions,
        "seed": seed,
    }
    own = {
        "clip": clip,
        "stop_loss": stop_loss,
        "shared_lora_a": shared_lora_a,
        "latents": latents,
        "top_k": top_k,
        "routing_epochs": routing_epochs,
        "translator_epochs": translator_epochs,
        "translator_rate": translator_rate,
    }
    chosen = EncodingMethod.of(method, common, own)
    source = Source(folder, passage_tokens, prefix, collection)
    steps = Steps.of(pairs, any_answer=any_answer, augment=augment, allow_plain=allow_plain)
    if status:
        tell_status(library, source, chosen, steps)
        return
    options = {"memory_gib": memory_gib, "loss_log": loss_log, "progress": not quiet}
    outcome = bring_up_to_date(library, model, device, source, chosen, steps, options)
    show_report(outcome.report, unused_lines=outcome.unused_lines)
    show_losses(outcome.losses)
    show_translator(outcome.translated)
    if outcome.report.failed:
        raise typer.Exit(1)
