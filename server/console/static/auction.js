// Keeps the page of an auction up to date, and counts down to its end by the clock of its cell.
const CHANGES_MAX = 50, PAUSE_MS = 1000, PAUSE_MAX_MS = 30000, TICK_MS = 250;
const state = document.getElementById("state");
const news = document.getElementById("news");
const changes = document.getElementById("changes");
const live = document.getElementById("live");
const standing = document.getElementById("standing");
let told = standing.innerHTML;
let next = state.dataset.from;
let pauseMs = PAUSE_MS;
// Our clock less the cell's. What an item says is late by its way here, so the least of all is the nearest.
let aheadMs = Infinity;

function countDown() {
  const end = state.querySelector("[data-end-ms]");
  if (end === null || aheadMs === Infinity) {
    return;
  }
  const leftS = Math.ceil((Number(end.dataset.endMs) - (Date.now() - aheadMs)) / 1000);
  const parts = [Math.floor(leftS / 86400), Math.floor(leftS / 3600) % 24, Math.floor(leftS / 60) % 60, leftS % 60];
  const text = parts.slice(1).map((part) => String(part).padStart(2, "0")).join(":");
  end.textContent = leftS <= 0 ? "bidding has ended" : `${parts[0] > 0 ? `${parts[0]} d ` : ""}${text} left`;
}

// The amount that the form proposes follows the bids, unless the visitor has typed another one or is about to send it.
function propose(least) {
  const amount = document.querySelector("#bid [data-least]");
  if (amount !== null && amount.value === amount.dataset.least && !amount.form.matches(":hover, :focus-within")) {
    amount.value = amount.dataset.least = least;
  }
}

// It is read aloud: once, and not with each bid of others.
function tell(now) {
  if (now !== told) {
    standing.innerHTML = told = now;
  }
}

// A stream that is not opened says no reason. Without a session any page leads to the one to sign in.
async function hasSession() {
  const answer = await fetch("/", { redirect: "manual" }).catch(() => null);
  return answer?.type !== "opaqueredirect";
}

function listen() {
  const stream = new EventSource(`${state.dataset.live}?from=${next}`);
  stream.onmessage = (message) => {
    const item = JSON.parse(message.data);
    if (item.problem !== undefined) {
      stream.close();
      live.textContent = `No longer live: ${item.problem}`;
      return;
    }
    pauseMs = PAUSE_MS;
    next = item.next;
    aheadMs = Math.min(aheadMs, Date.now() - item.cellMs);
    // The server has escaped all that it shows.
    state.innerHTML = item.state;
    tell(item.ended ? "" : item.standing || told);
    changes.insertAdjacentHTML("afterbegin", item.changes);
    while (changes.children.length > CHANGES_MAX) {
      changes.lastElementChild.remove();
    }
    live.textContent = item.ended ? "The auction has ended." : "Live";
    countDown();
    propose(item.least);
    if (item.ended) {
      stream.close();
      document.getElementById("bid")?.remove();
    }
  };
  stream.onerror = async () => {
    const refused = stream.readyState === EventSource.CLOSED;
    stream.close();
    if (refused && !(await hasSession())) {
      live.textContent = "Your session has ended. ";
      const link = document.createElement("a");
      live.append(Object.assign(link, { href: location.href, textContent: "Sign in again" }));
      return;
    }
    live.textContent = "Connecting again";
    setTimeout(listen, pauseMs);
    pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS);
  };
}

if (state.dataset.live !== undefined) {
  news.hidden = false;
  setInterval(countDown, TICK_MS);
  listen();
}
