from __future__ import annotations

from airflow_mullama.engines.llamacpp.build import describe_build

OF_THE_INDEX = "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | REPACK = 1 | "
NATIVE = OF_THE_INDEX + "AVX512 = 1 | AVX512_VNNI = 1 | AMX_INT8 = 1 | "
SERVER_CPU = "processor : 0\nflags\t\t: fpu fma avx2 avx512f avx512bw avx512vl avx512_vnni amx_tile amx_int8\n"
OLD_CPU = "processor : 0\nflags\t\t: fpu sse3 fma avx2\n"


def test_a_cpu_that_has_more_than_the_build_uses_is_told() -> None:
    words = describe_build(OF_THE_INDEX, SERVER_CPU)
    assert words.startswith("built for AVX2; this CPU has AVX-512 and AVX-512 VNNI and AMX: a build of your own")


def test_a_build_that_uses_all_there_is_says_just_that() -> None:
    assert describe_build(OF_THE_INDEX, OLD_CPU) == "built for AVX2"
    assert describe_build(NATIVE, SERVER_CPU) == "built for AVX2, AVX-512, AVX-512 VNNI, AMX"


def test_a_gpu_backend_is_named() -> None:
    system = "CUDA : ARCHS = 900 | USE_GRAPHS = 1 | " + OF_THE_INDEX
    assert describe_build(system, OLD_CPU) == "built for CUDA, AVX2"


def test_without_knowledge_of_the_cpu_nothing_is_claimed() -> None:
    assert describe_build(OF_THE_INDEX, "") == "built for AVX2"


def test_the_installed_build_is_described() -> None:
    import xllamacpp

    assert describe_build(xllamacpp.get_system_info()).startswith("built for ")
