// The character table: sorting by a column's heading, searching, and no more rows than one reads; without it all rows show.
const counted = new Intl.NumberFormat("en-US");

function cellValue(row, heading) {
  const text = row.cells[heading.cellIndex].textContent.trim();
  if (!heading.classList.contains("n")) return text.toLowerCase();
  const number = parseFloat(text.replaceAll(",", ""));
  return isNaN(number) ? -Infinity : number;
}

function sortBy(table, heading) {
  const before = heading.getAttribute("aria-sort");
  const ascending = before ? before === "descending" : !heading.classList.contains("n");
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const rows = [...table.tBodies[0].rows].map((row) => [cellValue(row, heading), row]);
  rows.sort((a, b) => (ascending ? compare(a[0], b[0]) : compare(b[0], a[0])));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const input = document.querySelector(`input[data-filters="${table.id}"]`);
  const output = document.querySelector(`output[data-counts="${table.id}"]`);
  const more = document.querySelector(`button[data-grows="${table.id}"]`);
  const texts = new Map(
    [...table.tBodies[0].rows].map((row) => [row, `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase()]),
  );
  let most = Number(table.dataset.rows);

  function show() {
    const words = input.value.toLowerCase().replaceAll("_", " ").split(" ").filter(Boolean);
    let found = 0;
    for (const row of table.tBodies[0].rows) {
      const text = texts.get(row);
      row.hidden = !words.every((word) => text.includes(word)) || ++found > most;
    }
    const all = texts.size;
    const of = found < all ? `${counted.format(found)} of ${counted.format(all)}` : counted.format(all);
    output.textContent = `${of} characters` + (found > most ? `, the first ${counted.format(most)} shown` : "");
    more.hidden = found <= most;
    more.textContent = `Show all ${counted.format(found)}`;
  }

  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      sortBy(table, button.closest("th"));
      show();
    });
  }
  input.addEventListener("input", show);
  more.addEventListener("click", () => {
    most = Infinity;
    show();
  });
  show();
}
