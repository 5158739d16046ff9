"""What llama.cpp computes with a model, by the architecture that its file names.

The names are those of ``src/llama-arch.cpp`` in llama.cpp b11549. llama.cpp also loads what it cannot write or embed
with in the way that its server works, and then aborts or gives nonsense: an encoder with a decoder (``t5``), half of
one (``t5encoder``), diffusion (``dream``, ``llada``, ``rnd1``), drafts of other models (``eagle3``, ``dflash``), sound
(``wavtokenizer-dec``, ``qwen3tts``). So what is not named here is refused.
"""

from __future__ import annotations


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# They read a text at once: a vector for each text, and no writing.
ENCODERS = _names(
    """
    bert eurobert gemma-embedding gemma-embedding2 jina-bert-v2 jina-bert-v3 llama-embed modern-bert neo-bert nomic-bert
    nomic-bert-moe
    """
)

# They write one token after the other, and can embed too.
DECODERS = _names(
    """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bitnet bloom chameleon chatglm
    codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dots1
    dots3note ernie4_5 ernie4_5-moe exaone exaone-moe exaone4 falcon falcon-h1 gemma gemma2 gemma3 gemma3n gemma4
    glm-dsa glm4 glm4moe glm5-next gpt-oss gpt2 gptj gptneox granite granite_swa granitehybrid granitemoe graniteswitch
    grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba k2-horizon kimi-k3
    kimi-linear laguna lfm2 lfm2moe llama llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3 minimax-01
    minimax-m2 minimax-m3 mistral3 mistral4 mpt nanbeige nemotron nemotron_h nemotron_h_moe olmo olmo2 olmoe openelm
    orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo2 plamo3 plm qwen qwen2 qwen2moe qwen2vl qwen3 qwen35
    qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe qwen4exp refact rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3
    spark2_5 stablelm starcoder starcoder2 step35 talkie xverse
    """
)
