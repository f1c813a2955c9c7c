"""What a person sees: tables, pictures, the HTML report, and the `mist` accessor of datasets.

Importing this package registers `Dataset.mist` (see `mist_jax.report.accessor`).
"""

from mist_jax.report import accessor as accessor
