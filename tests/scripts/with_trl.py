"""Supervised fine-tuning with TRL, written for CUDA and nothing else.

    python with_trl.py
    torchrun --nproc_per_node 2 with_trl.py
"""

import os
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
torch.cuda.set_device(device)

WORDS = "the cat dog sat ran on under a mat tree and then it slept".split()
LINES = [f"the {a} {b} {c} the {d}" for a in ("cat", "dog") for b in ("sat", "ran")
         for c in ("on", "under") for d in ("mat", "tree")] * 4


def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    tok = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="<eos>",
                                   unk_token="<unk>")


def main():
    torch.manual_seed(0)
    torch.cuda.manual_seed_all(0)
    tok = tokenizer()
    config = LlamaConfig(vocab_size=len(tok), hidden_size=32, intermediate_size=64,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=64, pad_token_id=0, eos_token_id=1)
    model = LlamaForCausalLM(config).to(device)
    print("capability", torch.cuda.get_device_capability(), torch.cuda.get_device_properties(0).name)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=4,
            max_steps=12,
            learning_rate=1e-2,
            logging_steps=1,
            bf16=torch.cuda.is_bf16_supported(),
            report_to="none",
            dataloader_pin_memory=True,
            gradient_checkpointing=False,
            save_strategy="no",
            max_length=32,
            seed=0,
        )
        trainer = SFTTrainer(model=model, args=arguments, processing_class=tok,
                             train_dataset=Dataset.from_dict({"text": LINES}))
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        print("memory", torch.cuda.memory_allocated() > 0, torch.cuda.mem_get_info()[1] > 0)
        assert losses[-1] < losses[0], losses
        prompt = torch.tensor([tok("the cat")["input_ids"]]).cuda()
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            print(tok.decode(trainer.model.to("cuda").generate(prompt, max_new_tokens=4)[0]))
    print("losses", " ".join(f"{loss:.4f}" for loss in losses))
    print("done")


if __name__ == "__main__":
    main()
