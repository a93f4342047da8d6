"""The report of `coordkit audit` as one page that needs nothing beside itself.

The rule: whatever a journal says is text here, never markup, and the page stays small however long the journal is.

  drawing     where things lie on the timeline, and what is drawn as one because it would be too narrow alone
  markup      text, escaped
  timeline    a drawing as HTML
  whole       the page around the timelines
  style.css, script.js   put into the page as they are; it can be read without the script
"""

from __future__ import annotations

from coordkit.cli.page.whole import page

__all__ = ["page"]
