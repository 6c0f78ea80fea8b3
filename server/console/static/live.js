// Keeps each [data-live] element as the server renders it. Without this module the page has a link to refresh it.
for (const part of document.querySelectorAll("[data-live]")) {
  const news = new EventSource(part.dataset.live);
  news.onmessage = (event) => {
    // A reader who has focus in the part, for example on a link, keeps it.
    if (!part.contains(document.activeElement)) {
      part.innerHTML = event.data;
    }
  };
  news.onerror = () => {
    // The browser connects again by itself, unless the session has ended.
    if (news.readyState === EventSource.CLOSED) {
      window.location.reload();
    }
  };
}
