"""Files that can be trusted: durable writes, sealed folders, locks, strict JSON and safetensors."""
