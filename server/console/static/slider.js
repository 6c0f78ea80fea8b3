// Says which moment the slider is at, and moves the mark in the charts. Without it the form's button does the work.

const slider = document.querySelector("#slider input");
const output = document.querySelector("#slider output");

function follow() {
  output.textContent = new Date(Number(slider.value)).toISOString().replace("T", " ").replace("Z", " UTC");
  for (const chart of document.querySelectorAll(".chart svg")) {
    const [begin, end] = [Number(chart.dataset.beginMs), Number(chart.dataset.endMs)];
    const [left, right] = [Number(chart.dataset.left), Number(chart.dataset.right)];
    const at = Math.round(left + ((slider.value - begin) * (right - left)) / Math.max(end - begin, 1));
    chart.querySelector(".mark").setAttribute("d", `M${at} ${chart.dataset.top}V${chart.dataset.bottom}`);
  }
}

slider?.addEventListener("input", follow);
