"""The whole chain from Python: what is planned, the run with its progress, and what to make of the verdict.

python python_api.py RECIPE OUT
"""

import sys

import epmq_export as epmq


def main(recipe: str, output: str) -> int:
    """Run a recipe and tell what came out. Return 0 where the files may be shipped."""
    plan = epmq.forecast(recipe)
    for file in plan.files:
        print(f"will write {file.path}: {file.bytes / 1e6:.1f} MB")

    def show(step: epmq.Progress) -> None:
        if step.state == "finished":
            print(f"{step.stage} took {step.seconds:.1f} s")

    verdict = epmq.run(recipe, output, progress=show)
    for name, scores in verdict.scores.items():
        print(f"{name}: {100 * scores['average']:.1f} on average")
    # A fault makes the verdict fail. A doubt is worth a look, such as that lines are too few to be sure.
    for sentence in verdict.broken:
        print(f"fault: {sentence}")
    for sentence in verdict.warnings:
        print(f"doubt: {sentence}")
    print(f"verdict: {verdict.outcome}")
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
