"""A report as people and other programs read it: pure functions from a `RankReport` to text.

>>> page = report_html(report, spectrum)  # one self-contained file
>>> comment = report_markdown(report)     # for a pull request or a model card
>>> table = report_csv(report)            # a row per tensor
>>> curve = frontier_csv(report)          # a row per result of the job
"""

from rankpress.reporting.csv_table import report_csv
from rankpress.reporting.frontier_csv import frontier_csv
from rankpress.reporting.html import report_html
from rankpress.reporting.markdown import report_markdown

__all__ = ["frontier_csv", "report_csv", "report_html", "report_markdown"]
