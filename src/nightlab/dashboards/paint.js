// Bokeh 3.9 writes the place of each part of a figure into a style sheet of its own whenever it paints, changed or not,
// and asks for styles in between: all of the page's are worked out anew some ten times a figure. What stays is left.
Bokeh.require("core/dom").InlineStyleSheet.prototype._update = function (css) {
  if (this.el.textContent !== css) this.el.textContent = css;
};
// For every line and word it paints, Bokeh 3.9 asks the page for styles of names that begin with --bk-, of which these
// pages have none: each time the browser works out all styles that are not settled.
Bokeh.require("core/visuals").VisualProperties.prototype._get_css_value = () => "";
