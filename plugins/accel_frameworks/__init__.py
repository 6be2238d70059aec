"""Repairs for the libraries that people train with: one module and one entry point a library.

torch         `torch.cuda.is_bf16_supported` answers for the device
transformers  precision and attention as the device has them; broken optional packages are absent
peft          an incomplete quantisation package does not stop plain LoRA
llamafactory  its own flags and requests, its ranks, and the command `accel llamafactory`
torchaudio    a stand-in where it is installed but cannot be imported

Hooks run in a thread that must not import any of these libraries: whatever looks at them does so
inside a Patch, when the library itself is imported.
"""
