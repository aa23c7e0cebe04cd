// Sorting by a column's heading, and searching; the page is complete without either.
function cellValue(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text !== "" && !isNaN(text) ? Number(text) : text.toLowerCase();
}

function sortBy(table, heading) {
  const before = heading.getAttribute("aria-sort");
  const ascending = before ? before === "descending" : !heading.classList.contains("n");
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const rows = [...table.tBodies[0].rows].map((row) => [cellValue(row, heading.cellIndex), row]);
  rows.sort((a, b) => (ascending ? compare(a[0], b[0]) : compare(b[0], a[0])));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sortBy(table, button.closest("th")));
  }
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  const rows = document.getElementById(input.dataset.filters).tBodies[0].rows;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().replaceAll("_", " ").split(" ").filter(Boolean);
    for (const row of rows) {
      const text = row.cells[0].textContent.toLowerCase() + " " + row.cells[1].textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
