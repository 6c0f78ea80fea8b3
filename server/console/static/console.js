// Tells the server the zone of the visitor, so that the next page has its times in it.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) {
  document.cookie = `cellbook_zone=${zone}; path=/; max-age=31536000; samesite=lax`;
}
