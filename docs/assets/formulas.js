// Formulas arrive as \(inline\) and \[display\] in elements of class `arithmatex`.
document$.subscribe(() => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const formula = element.textContent.trim()
    if (/^\\[(\[]/.test(formula)) {
      const displayMode = formula.startsWith("\\[")
      katex.render(formula.slice(2, -2), element, { displayMode, throwOnError: false })
    }
  }
})
