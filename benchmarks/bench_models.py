"""How fast each model trains, as a ratio to the DCGAN's rate measured in one run (see ``bench_training``)."""

from statistics import median

from benchmarks.bench_training import BATCH, measure, parsed
from gradcam_gan.models.options import MODELS, Guidance, Model

WIDTH = 16
GUIDED = {
    f"guided, {source}": Model(conditional=False, guidance=Guidance(source=source, start=0))
    for source in ("gradcam", "hirescam", "gradient", "gradient-x-input")
}


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    options = parsed(arguments, __doc__)

    print(f"models: one step on {BATCH} images of 64x64 at width {WIDTH}, CPU, {options.threads} threads\n")
    header = ("model", f"images/{'CPU s' if options.cpu_time else 's'}", "vs dcgan", "peak MiB")
    print("  ".join(f"{title:>18}" for title in header))
    models = {name: known.model for name, known in MODELS.items() if not known.variant} | GUIDED
    peaks, seconds = measure(WIDTH, options.rounds, options.threads, options.cpu_time, models)
    for name in models:
        ratio = median(a / b for a, b in zip(seconds["dcgan"], seconds[name], strict=True))
        cells = (name, f"{BATCH / median(seconds[name]):.0f}", f"{ratio:.2f} x", f"{peaks[name]:.0f}")
        print("  ".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
