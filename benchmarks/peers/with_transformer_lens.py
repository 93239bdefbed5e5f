"""TransformerLens: a hook on the stream that enters the block, within its own cached `generate`."""

import torch
from hugging_face import completions, load_tokenizer, prompts
from protocol import serve, threads
from transformer_lens.model_bridge import TransformerBridge


def load(job):
    torch.set_num_threads(threads())
    tokenizer = load_tokenizer(job)
    bridge = TransformerBridge.boot_transformers(
        job["folder"], tokenizer=tokenizer, device="cpu", dtype=torch.float32
    )
    name = f"blocks.{job['layer']}.hook_resid_pre"

    @torch.inference_mode()
    def work(job, samples, new_tokens, greedy):
        _, streams = bridge.run_with_cache(torch.tensor([job["plus"], job["minus"]]), names_filter=[name])
        added = job["coefficient"] * (streams[name][0] - streams[name][1])
        draw = {"do_sample": False} if greedy else {"temperature": job["temperature"], "top_p": job["top_p"]}

        def add(stream, hook):
            if stream.shape[1] == 1:  # a decode step; the prompt is longer
                return stream
            changed = stream.clone()
            changed[:, : len(added)] += added
            return changed

        def arm():
            output = bridge.generate(
                prompts(job, samples)["input_ids"],
                max_new_tokens=new_tokens,
                stop_at_eos=False,
                return_type="tokens",
                verbose=False,
                **draw,
            )
            return completions(job, output, tokenizer)

        unsteered = arm()
        with bridge.hooks(fwd_hooks=[(name, add)]):
            return [unsteered, arm()]

    return work


serve(load, ("transformer-lens", "torch", "transformers"))
