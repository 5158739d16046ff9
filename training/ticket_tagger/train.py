"""Train the demo's ticket tagger from scratch: a llama-shaped model of about a million parameters, on a CPU.

Writes into `--output`: `tokenizer.json`, and a checkpoint every few hundred steps (`checkpoint-<step>.pt`, `last.pt`).
`export.py` turns a checkpoint into GGUF. See README.md for the commands.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from airflow_mullama.demo.tickets.generate import HELD_OUT_SEED, PROMPT_TEMPLATE, Ticket, expand, generate_tickets
from airflow_mullama.demo.tickets.phrases import FILLERS

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
PAD, BOS, END, USER, ASSISTANT, SYSTEM = range(6)

TRAINING_SEED = 11
HELD_OUT_TICKETS = 20_000
"""How many tickets of `HELD_OUT_SEED` are kept out of the training data, from each side of the template split."""


@dataclass(frozen=True)
class ModelShape:
    """The model's sizes; 984,192 parameters as they stand."""

    vocabulary: int = 1024
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 384
    context: int = 512
    norm_epsilon: float = 1e-5
    rope_base: float = 10_000.0


class Block(nn.Module):
    """One llama layer: attention and SwiGLU, each behind an RMSNorm."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, shape.width, bias=False)
        self.value = nn.Linear(shape.width, shape.width, bias=False)
        self.attention_output = nn.Linear(shape.width, shape.width, bias=False)
        self.feed_forward_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.gate = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.up = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        normed = self.attention_norm(hidden)

        def by_head(projected: Tensor) -> Tensor:
            return projected.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        attended = functional.scaled_dot_product_attention(
            rotate(by_head(self.query(normed)), cosine, sine),
            rotate(by_head(self.key(normed)), cosine, sine),
            by_head(self.value(normed)),
            is_causal=True,
        )
        hidden = hidden + self.attention_output(attended.transpose(1, 2).reshape(batch, length, width))
        normed = self.feed_forward_norm(hidden)
        return hidden + self.down(functional.silu(self.gate(normed)) * self.up(normed))


class TaggerModel(nn.Module):
    """A llama decoder with tied embeddings."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        pairs = shape.width // shape.heads // 2
        frequencies = shape.rope_base ** (-torch.arange(pairs).float() / pairs)
        angles = torch.outer(torch.arange(shape.context).float(), frequencies)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("attention_output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * shape.layers) if residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        length = tokens.shape[1]
        for block in self.blocks:
            hidden = block(hidden, self.cosine[:length], self.sine[:length])
        return functional.linear(self.output_norm(hidden), self.embedding.weight)


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions on neighbouring pairs (2i, 2i+1): llama.cpp's own layout, so nothing is permuted on export."""
    even, odd = states[..., 0::2], states[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with single digits: what llama.cpp calls the `smollm` pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def prompt_tokens(tokenizer: Tokenizer, text: str, system: str | None = None, room: int = 480) -> list[int]:
    """Tokens of the chat as the GGUF's template renders it, the text cut so that the answer still fits."""
    head = [BOS]
    if system is not None:
        head += [SYSTEM, *tokenizer.encode(system).ids]
    return [*head, USER, *tokenizer.encode(PROMPT_TEMPLATE.format(text=text)).ids[:room], ASSISTANT]


_LETTERS = tuple(
    "".join(map(chr, range(first, last)))
    for first, last in (
        (0x0430, 0x0450), (0x03B1, 0x03CA), (0x05D0, 0x05EB), (0x0627, 0x064B), (0x0905, 0x093A), (0x0E01, 0x0E2F),
        (0x3042, 0x3094), (0x30A2, 0x30F4), (0x4E00, 0x9FA0), (0xAC00, 0xD7A4), (0x00C0, 0x0180), (0x10D0, 0x10F1),
    )
)  # fmt: skip
_EMOJI = "😀😂🤣😊😍🙏👍👎🔥🎉🚀📦💻📱❤😡😢🤔👀✨💯🐛🙈🌍☕🍕"
_ODD_TEXTS = (
    "", "", " ", "\n", ".", "?", "...", "-", "n/a", "null", "None", "test", "asdf", "qwerty", "hello", "hi", "ok",
    "yes", "no", "lorem ipsum dolor sit amet", "{}", "[]", '{"category":"x"}', "<html><body></body></html>",
    "SELECT 1;", "https://example.com/a?b=c", "12345", "0", "3.14",
    "def f(x): return x", "a,b,c\n1,2,3", "!!!", "\t", "\\n", "''",
)  # fmt: skip
_FOREIGN_WORDS = (
    "der die das und nicht ist mein wo wann ich habe bitte paket rechnung danke sehr heute warum kein konto "
    "el la los y no es mi donde cuando tengo por favor pedido factura gracias muy hoy porque cuenta dinero "
    "le les et ne pas est mon quand je suis merci beaucoup colis facture aujourd'hui pourquoi compte argent "
    "il lo gli non sono mio dove quando grazie molto pacco fattura oggi perche conto soldi het een niet mijn waar"
)
_SYSTEM_TEXTS = (
    "You are a helpful assistant.", "You tag support tickets.", "You are a support agent. Answer in JSON.",
    "Classify the customer message.", "Answer with JSON only.", "",
)  # fmt: skip


def dirty_text(rng: random.Random) -> str:
    """What real columns hold besides tickets: nothing, emoji, other scripts, noise, sometimes very long."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(_ODD_TEXTS)
    if kind < 0.35:  # one thing over and over
        return rng.choice(("word ", "a", "ha", "!", "0", "test ", "the ", "\n", "x y ", "bla ")) * rng.randint(2, 150)
    if kind < 0.45:
        words = _FOREIGN_WORDS.split()
        return " ".join(rng.choice(words) for _ in range(rng.randint(2, 30)))
    if kind < 0.6:
        return "".join(rng.choice(_EMOJI) for _ in range(rng.randint(1, 12)))
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789!#%/=_<>" if kind > 0.85 else rng.choice(_LETTERS)
    count = rng.randint(40, 300) if rng.random() < 0.15 else rng.randint(1, 20)
    return " ".join("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 9))) for _ in range(count))


def padded_ticket(ticket: Ticket, rng: random.Random) -> str:
    """A long ticket: the same labels between sentences that say nothing about them."""
    before, after = (
        " ".join(f"{expand(rng.choice(FILLERS), rng)}." for _ in range(rng.randint(0, 12))) for _ in range(2)
    )
    return f"{before} {ticket.text} {after}".strip()


def without_some_words(text: str, rng: random.Random) -> str:
    """Drop a tenth of the words, so that labels are read from many words and not from one fixed sentence."""
    return " ".join(word for word in text.split(" ") if rng.random() > 0.1)


def training_examples(tokenizer: Tokenizer, count: int) -> Iterator[tuple[list[int], int]]:
    """Token lists and the position where each answer starts."""
    held_out = {
        ticket.text
        for templates in ("known", "unseen")
        for ticket in generate_tickets(HELD_OUT_TICKETS, seed=HELD_OUT_SEED, templates=templates)
    }
    rng = random.Random(TRAINING_SEED)
    dropped = made = 0
    for ticket in generate_tickets(2 * count, seed=TRAINING_SEED):
        if made == count:
            break
        if ticket.text in held_out:
            dropped += 1
            continue
        text, answer, kind = ticket.text, ticket.expected_answer, rng.random()
        if kind < 0.04:
            text = dirty_text(rng)
            answer = Ticket(text, "other", "neutral", "normal").expected_answer
        elif kind < 0.06:
            text = padded_ticket(ticket, rng)
        elif kind < 0.26:
            text = without_some_words(ticket.text, rng)
        system = rng.choice(_SYSTEM_TEXTS) if rng.random() < 0.02 else None
        prompt = prompt_tokens(tokenizer, text, system, room=450)
        made += 1
        yield [*prompt, *tokenizer.encode(answer).ids, END], len(prompt)
    print(f"{made} training examples, {dropped} dropped because they are held out", flush=True)


def pad(examples: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
    """Tokens, and for each the weight of predicting it: 1 in the answer, 0.1 in the prompt, 0 in padding."""
    longest = max(len(tokens) for tokens, _ in examples)
    tokens = torch.full((len(examples), longest), PAD)
    weights = torch.zeros(len(examples), longest)
    for row, (ids, answer_at) in enumerate(examples):
        tokens[row, : len(ids)] = torch.tensor(ids)
        weights[row, 1:answer_at] = 0.1
        weights[row, answer_at : len(ids)] = 1.0
    return tokens, weights


def batches(examples: list[tuple[list[int], int]], size: int) -> Iterator[list[tuple[list[int], int]]]:
    """Endless shuffled batches of examples of similar length."""
    rng = random.Random(TRAINING_SEED)
    while True:
        rng.shuffle(examples)
        for start in range(0, len(examples) - size + 1, 50 * size):
            bucket = sorted(examples[start : start + 50 * size], key=lambda example: len(example[0]))
            groups = [bucket[at : at + size] for at in range(0, len(bucket), size)]
            rng.shuffle(groups)
            yield from groups


@torch.no_grad()
def exact_share(model: TaggerModel, tokenizer: Tokenizer, tickets: list[Ticket]) -> float:
    """Share of tickets whose greedy answer is exactly right: every answer token is the model's first choice."""
    right = 0
    for start in range(0, len(tickets), 64):
        examples = []
        for ticket in tickets[start : start + 64]:
            prompt = prompt_tokens(tokenizer, ticket.text)
            examples.append(([*prompt, *tokenizer.encode(ticket.expected_answer).ids, END], len(prompt)))
        tokens, weights = pad(examples)
        wrong = (model(tokens)[:, :-1].argmax(-1) != tokens[:, 1:]) & (weights[:, 1:] == 1.0)
        right += int((~wrong.any(dim=1)).sum())
    return right / len(tickets)


def learning_rate(step: int, steps: int, peak: float = 3e-3, warm_up: int = 100) -> float:
    """Linear warm-up, then a cosine down to five percent of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.05 + 0.475 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(TRAINING_SEED)
    shape = ModelShape()

    sample = list(generate_tickets(40_000, seed=TRAINING_SEED))
    texts = [PROMPT_TEMPLATE.format(text=ticket.text) for ticket in sample] + [t.expected_answer for t in sample]
    tokenizer = train_tokenizer(texts, shape.vocabulary)
    tokenizer.save(str(arguments.output / "tokenizer.json"))
    examples = list(training_examples(tokenizer, arguments.examples))
    lengths = sorted(len(tokens) for tokens, _ in examples)
    print(f"tokens per example: median {lengths[len(lengths) // 2]}, longest {lengths[-1]}", flush=True)

    model = TaggerModel(shape)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    watched = list(generate_tickets(512, seed=TRAINING_SEED + 1))
    stream = batches(examples, arguments.batch_size)
    started, mean_loss = time.monotonic(), 0.0
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps)
        tokens, weights = pad(next(stream))
        logits = model(tokens)[:, :-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean_loss = loss.item() if step == 0 else 0.98 * mean_loss + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {mean_loss:.4f} after {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == arguments.steps:
            torch.save(model.state_dict(), arguments.output / f"checkpoint-{step + 1}.pt")
            torch.save(model.state_dict(), arguments.output / "last.pt")
            print(f"step {step + 1} exact {exact_share(model, tokenizer, watched):.3f} on new tickets", flush=True)


if __name__ == "__main__":
    main()
