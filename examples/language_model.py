"""A language model: what the file loses of every task, in the words of llama.cpp's perplexity tool.

python language_model.py RECIPE OUT
"""

import sys

import epmq_export as epmq


def main(recipe: str, output: str) -> int:
    """Run a recipe of a decoder or T5, and tell perplexity and divergence of each task in each file."""
    verdict = epmq.run(recipe, output)
    for file in verdict.files:
        print(f"{file.row}: {file.path}")
        for task, told in file.checks["tasks"].facts["by_task"].items():
            facts = told["facts"]
            if "perplexity" in facts:  # A task with labels has a score, and is in `verdict.scores`.
                print(
                    f"  {task}: perplexity {facts['perplexity']:.2f}, "
                    f"reference {facts['reference_perplexity']:.2f}; "
                    f"KL divergence {told['loss']['value']:.4f}, 99th percentile {facts['kl_99']:.4f}; "
                    f"{100 * told['same_first']['value']:.1f} % of first choices are the same"
                )
        if file.format == "gguf":
            print(f"  serve it: llama-server -m {file.path}")
    print(f"verdict: {verdict.outcome}")
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
