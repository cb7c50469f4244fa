// What a page does by itself: load anew what has changed, and take the key from the address.
"use strict";

const body = document.body;

// Parts of the page that may change. Forms stand outside them, so that nothing typed is lost.
async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (answer.redirected || !answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-part]")) {
    const other = fresh.getElementById(part.id);
    if (!other || other.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) && document.activeElement.getAttribute("href");
    part.replaceChildren(...other.childNodes);
    if (focused) part.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
  }
}

if (body.dataset.live) {
  const source = new EventSource(body.dataset.live);
  let first = true, busy = false, again = false;
  source.addEventListener("changed", async () => {
    if (first) { first = false; return; }
    if (busy) { again = true; return; }
    busy = true;
    do { again = false; await refresh().catch(() => {}); } while (again);
    busy = false;
  });
  source.addEventListener("gone", () => { source.close(); location.assign("/login"); });
  addEventListener("pagehide", () => source.close());
}

if ("login" in body.dataset) {
  const secret = document.getElementById("secret");
  const target = document.querySelector('input[name="next"]').value;
  if (location.hash.length > 1) {
    // What stands behind # is never sent by the browser itself; it leaves the address bar, too.
    secret.value = decodeURIComponent(location.hash.slice(1));
    history.replaceState(null, "", location.pathname + location.search);
    secret.form.requestSubmit();
  } else {
    // A link from another site comes without the session's cookie; this request has it.
    fetch("/session").then((answer) => answer.json()).then((session) => {
      if (session.open) location.replace(target);
    });
  }
}
