"""The tools that are measured: one entry each, which is all that a further one needs.

Commands are templates; `&&` parts steps that follow each other, and a word in braces stands for:

    {base} {fine_tune}            directories of one model.safetensors each
    {base_file} {fine_tune_file}  these files
    {out}                         what compress has to write: a file, or a directory
    {restored} {restored_file}    a directory, or a .safetensors file, that restore has to write: one of the two
    {kept}                        an empty directory that stays until the last round, for what `prepare` makes
    {program} {hanzo}             built programs
    {python} {bin} {here}         the rivals' Python, its programs, and this directory
    {threads} {bytes} {dtype}     threads, size of the base file, F32 or BF16
    {include}                     nothing, or --include and a pattern: which tensors are stored with loss
"""
from dataclasses import dataclass

GIB = 1 << 30
DELTA = "{program} compress --shards {fine_tune} --base {base} -o {out} --threads {threads} -q --method "
RESTORE = "{program} restore {out} --base {base} -o {restored} --threads {threads} -q"
LIBRARY = "{python} {here}/libraries.py "
TORCH = "{python} {here}/torch_methods.py "


@dataclass(frozen=True)
class Tool:
    name: str
    settings: str
    compress: str
    restore: str
    version: str  # a command whose output has it, or `package NAME` of the rivals' Python
    prepare: str = ""  # run once, not measured
    memory: float = 0  # about so many bytes at its peak, in bytes of base and fine-tune together
    limit: int = 0  # files above this many bytes are left out
    because: str = ""  # why there is a limit


def delta_stream(method, settings=""):
    """A lossy method of delta-stream."""
    said = f"{method} {settings}".strip()
    return Tool("delta-stream", said, f"{DELTA}{said} {{include}}", RESTORE, "{program} --version")


def zstd(level):
    return Tool("zstd", f"{level}, the fine-tune alone",
                f"zstd {level} -T{{threads}} -q -f {{fine_tune_file}} -o {{out}}",
                f"zstd -d {long_of(level)}-q -f {{out}} -o {{restored_file}}", "zstd --version")


def long_of(level):
    """What the reader has to be allowed if the writer was."""
    return "--long=27 " if "--long" in level else ""


def zstd_patch(level):
    return Tool("zstd --patch-from", level,
                f"zstd {level} -T{{threads}} -q -f --patch-from={{base_file}} {{fine_tune_file}} -o {{out}}",
                "zstd -d -q -f --patch-from={base_file} {out} -o {restored_file}", "zstd --version", memory=1.5,
                limit=2 * GIB - 1, because="refuses files of 2 GiB or more")


def xdelta3(settings):
    # The window has to hold the whole base, or what is far from its place in the fine-tune is not found.
    return Tool("xdelta3", settings,
                f"xdelta3 -e {settings} -B {{bytes}} -f -s {{base_file}} {{fine_tune_file}} {{out}}",
                "xdelta3 -d -B {bytes} -f -s {base_file} {out} {restored_file}", "xdelta3 -V", memory=0.6,
                limit=2 * GIB, because="source window of 2 GiB at most")


def bigsmall(settings):
    """The fine-tune alone."""
    said = f"{settings} " if settings else ""
    return Tool("bigsmall", f"{settings or 'default'}, the fine-tune alone",
                f"{{bin}}/bigsmall compress {{fine_tune_file}} -o {{out}} {said}--no-progress",
                "{bin}/bigsmall decompress {out} -o {restored_file} --no-progress", "package bigsmall", memory=2)


def library(package, kind, settings, memory):
    return Tool(package, settings, LIBRARY + f"{kind} compress {{base}} {{fine_tune}} {{out}} {{threads}} {{dtype}}",
                LIBRARY + f"{kind} restore {{base}} {{out}} {{restored_file}} {{threads}} {{dtype}}",
                f"package {package}", memory=memory)


def weightscope(threshold):
    return Tool("weightscope", f"--threshold {threshold}",
                f"{{bin}}/weightscope export {{base}} {{fine_tune}} -o {{out}} --threshold {threshold}",
                "{bin}/weightscope apply {out} {base} -o {restored_file}", "package weightscope", memory=3)


def torch(method, settings):
    return Tool("PyTorch", f"{method}, {settings}",
                TORCH + f"{method} compress {{base_file}} {{fine_tune_file}} {{out}} --threads {{threads}} {{include}}",
                TORCH + f"{method} restore {{base_file}} {{out}} {{restored_file}} --threads {{threads}}",
                "package torch", memory=2)


TOOLS = [
    Tool("delta-stream", "lossless", DELTA + "lossless", RESTORE, "{program} --version"),
    zstd("-1"),
    zstd("-3"),
    zstd("-19 --long=27"),
    zstd_patch("-3"),
    zstd_patch("-19"),
    xdelta3("-3"),
    xdelta3("-9 -S lzma"),
    Tool("bsdiff", "its only ones", "bsdiff {base_file} {fine_tune_file} {out}",
         "bspatch {base_file} {restored_file} {out}", "dpkg-query -W -f ${{Version}} bsdiff", memory=9, limit=32 << 20,
         because="takes minutes above 32 MiB"),
    Tool("bigsmall", "--delta-from BASE",
         "{bin}/bigsmall compress {fine_tune_file} -o {out} --delta-from {base_file} --force-delta --no-progress",
         "{bin}/bigsmall decompress {out} -o {restored_file} --base {base_file} --no-progress", "package bigsmall",
         memory=4),
    bigsmall(""),
    bigsmall("--storage"),
    library("z4ai", "z4ai", "model_delta", 3),
    Tool("reminis", "diff, on databases", "{bin}/reminis convert {fine_tune} -o {out}.db -q"
         " && {bin}/reminis diff {kept}/base.db {out}.db -o {out} -q && rm {out}.db",
         "{bin}/reminis apply {kept}/base.db {out} -o {restored_file}.db -q"
         " && {bin}/reminis export {restored_file}.db -o {restored_file} -q && rm {restored_file}.db",
         "package reminis", prepare="{bin}/reminis convert {base} -o {kept}/base.db -q", memory=2),
    library("zipnn", "zipnn", "HUFFMAN, the fine-tune alone", 2),
    library("zipnn", "zipnn-delta", "HUFFMAN, delta_compressed_type=file", 3),
    weightscope("0"),
    weightscope("1e-6"),
    delta_stream("auto", "--bits 1"),
    delta_stream("auto", "--bits 0.25"),
    delta_stream("bitdelta"),
    delta_stream("delta-dct"),
    delta_stream("dare", "--sparsity 0.9"),
    delta_stream("ultradelta", "--sparsity 0.95"),
    library("deltatensors", "deltatensors-quantized", "quantized (1 bit)", 5),
    library("deltatensors", "deltatensors-int4", "int4", 5),
    library("deltatensors", "deltatensors-sparse", "sparse, 0.9", 5),
    Tool("hanzo-ml", "model_delta::bitdelta, all tensors", "{hanzo} encode {base_file} {fine_tune_file} {out}",
         "{hanzo} decode {base_file} {out} {restored_file}", "{hanzo} --version", memory=3),
    torch("bitdelta", "initial scales"),
    torch("dare", "0.9"),
    torch("ultradelta", "0.95, step 0.01, 4 bits"),
]
