"""GGUF files written again with something changed."""

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter


def copied(path, out, *, fields=None, drop=(), tensors=None):
    """Write a GGUF file again with other fields and tensors."""
    fields, tensors = fields or {}, tensors or {}
    reader = GGUFReader(path)
    architecture = fields.get(
        "general.architecture", reader.fields["general.architecture"].contents()
    )
    writer = GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in drop:
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        value = fields.get(name, field.contents())
        kind = GGUFValueType.STRING if isinstance(value, str) else field.types[0]
        writer.add_key_value(name, value, kind, inner)
    for name in fields.keys() - (reader.fields.keys() - {*drop}):
        kinds = {
            str: writer.add_string, int: writer.add_uint32, list: writer.add_array,
            float: writer.add_float32,
        }  # fmt: skip
        kinds[type(fields[name])](name, fields[name])
    for tensor in reader.tensors:
        if tensor.name in drop:
            continue
        data, kind = tensors.get(tensor.name, (tensor.data, tensor.tensor_type))
        writer.add_tensor(tensor.name, np.array(data), raw_dtype=kind)
    for name in tensors.keys() - {tensor.name for tensor in reader.tensors}:
        writer.add_tensor(name, tensors[name][0], raw_dtype=tensors[name][1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
