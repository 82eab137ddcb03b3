"""A slider over the epochs, for a reader in JupyterLab."""

import io
from dataclasses import replace

import ipywidgets
import matplotlib.pyplot as plt

from gradcam_gan.studies.panels import Panel
from gradcam_gan.studies.style import heatmap_grid


def epoch_slider(panel: Panel) -> ipywidgets.Widget:
    """The row of a panel that a slider picks, under the original images.

    Args:
        panel: one row an epoch.
    """

    def picture(row: int) -> bytes:
        seen = None if panel.seen is None else panel.seen[[row]]
        figure = heatmap_grid(replace(panel, maps=panel.maps[[row]], rows=[panel.rows[row]], seen=seen))
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=100)
        plt.close(figure)
        return content.getvalue()

    last = len(panel.rows) - 1
    options = [(label, row) for row, label in enumerate(panel.rows)]
    slider = ipywidgets.SelectionSlider(options=options, value=last, continuous_update=False)
    image = ipywidgets.Image(value=picture(last), format="png")
    slider.observe(lambda change: setattr(image, "value", picture(change["new"])), names="value")
    return ipywidgets.VBox([slider, image])
