"""How the page looks: colours of the bird (ink, earth, the yellow of beak and eye), fonts that come along."""

from __future__ import annotations

from typing import Any

HEADER = """
<header id="myna-header">
  <svg viewBox="0 0 64 64" width="52" height="52" role="img" aria-label="A myna">
    <circle cx="32" cy="32" r="32" fill="#2b2a33"/>
    <path d="M10 50c2-18 11-31 26-31 8 0 14 5 15 12-2 13-13 21-26 21-6 0-11-1-15-2z" fill="#5a4334"/>
    <path d="M22 33c1-12 9-20 18-18 8 1 13 8 11 16-3 8-13 12-21 10-5-1-8-4-8-8z" fill="#17161c"/>
    <path d="M50 24l11 5-11 4z" fill="#f4b400"/>
    <path d="M36 25c3-4 9-4 11 0-3 4-8 4-11 0z" fill="#f4b400"/>
    <circle cx="42" cy="25" r="2.6" fill="#17161c"/>
  </svg>
  <div>
    <h1>Myna</h1>
    <p>Any text in a voice heard for three seconds. Speech in a few kilobits.</p>
  </div>
</header>
"""

FOOTER = """
<footer id="myna-footer">Everything happens on this machine: no request leaves it, and recordings go when the page is
closed down. Everything said carries an inaudible watermark. Clone only voices that are yours or whose owner agreed.
</footer>
"""

CSS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
#myna-header { display: flex; gap: 14px; align-items: center; padding: 6px 0 0; }
#myna-header svg { flex: none; width: 52px; height: 52px; }
#myna-header h1 { font-size: 1.8rem; font-weight: 700; margin: 0; line-height: 1.1; }
#myna-header p { margin: 3px 0 0; opacity: 0.75; }
#myna-footer { opacity: 0.65; font-size: 0.85rem; text-align: center; padding: 14px 8px 4px; }
.myna-picture { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 8px 6px 2px; }
.myna-picture img { width: 100%; height: auto; object-fit: contain; display: block; }
/* The message box says what is wrong; a veil over what was asked for would only be in the way. */
[data-testid="status-tracker"]:has(.error) { display: none !important; }
.myna-picture .icon-button-wrapper { display: none; }
.myna-tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(112px, 1fr)); gap: 10px; }
.myna-tiles div { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 10px 12px; }
.myna-tiles b { display: block; font-size: 1.15rem; font-weight: 700; line-height: 1.25; white-space: nowrap; }
.myna-tiles span { font-size: 0.82rem; opacity: 0.7; }
.myna-note { min-height: 1.7em; display: flex; flex-direction: column; gap: 6px; }
.myna-note span { opacity: 0.8; font-variant-numeric: tabular-nums; }
.myna-note progress { width: 100%; height: 6px; accent-color: #f4b400; }
.myna-line, .myna-line > div { padding: 0 !important; }
.dark audio { color-scheme: dark; }
.myna-voice { display: grid; grid-template-columns: max-content 1fr; gap: 4px 14px; margin: 0; }
.myna-voice dt { opacity: 0.65; }
.myna-voice dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  .gradio-container, .gradio-container > main, main.fillable { padding: 8px !important; }
  #myna-header svg { width: 42px; height: 42px; }
  #myna-header h1 { font-size: 1.5rem; }
}
"""


def theme() -> Any:
    from gradio import themes

    return themes.Base(
        primary_hue=themes.colors.amber,
        secondary_hue=themes.colors.amber,
        neutral_hue=themes.colors.stone,
        radius_size=themes.sizes.radius_lg,
        # Fonts that Gradio's package carries, in the weights that it carries: nothing is fetched.
        font=(
            themes.LocalFont("IBM Plex Sans", weights=(400, 700)),
            "ui-sans-serif",
            "system-ui",
            "sans-serif",
        ),
        font_mono=(themes.LocalFont("IBM Plex Mono", weights=(400, 600)), "ui-monospace", "monospace"),
    ).set(
        button_primary_background_fill="#f4b400",
        button_primary_background_fill_hover="#ffc82e",
        button_primary_background_fill_dark="#f4b400",
        button_primary_background_fill_hover_dark="#ffc82e",
        button_primary_text_color="#1c1917",
        button_primary_text_color_dark="#1c1917",
        button_large_text_weight="700",
        button_small_text_weight="400",
        block_label_text_weight="400",
        block_title_text_weight="700",
    )
