"use strict";
// Tables of class "sortable": a button in each head sorts by its column; what has no value always comes last.
const said = document.getElementById("said");

function valueOf(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
  const number = Number(value);
  return value === "" ? null : Number.isNaN(number) ? value : number;
}

function compareValues(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function sortBy(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const first = head.dataset.first || "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = Array.from(body.rows).filter((row) => !row.classList.contains("group"));
    rows.sort((one, other) => {
      const left = valueOf(one, head.cellIndex);
      const right = valueOf(other, head.cellIndex);
      if (left === null || right === null) return (left === null) - (right === null);
      return sign * compareValues(left, right);
    });
    body.append(...rows);
  }
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  said.textContent = `Sorted by ${button.textContent.trim()}, ${order}.`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (button) sortBy(button);
});

// Paper shows what is folded up on the screen.
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const image of document.images) image.loading = "eager";
});
