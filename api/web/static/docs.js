// Starts Swagger UI, and logs in on the page. Tokens are kept in memory only: they are gone when the page is closed.
const ui = SwaggerUIBundle(JSON.parse(document.getElementById("swagger-ui").dataset.options));
const form = document.getElementById("login");
const [fields, account] = form.querySelectorAll("fieldset");
const message = form.querySelector("output");
const EARLIER = 60; // seconds before its end that a token is renewed
let tokens = null;
let renewal = null;

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (tokens) headers.Authorization = `Bearer ${tokens.access_token}`;
  const answer = await fetch(form.dataset.auth + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.status === 204 ? null : answer.json();
}

function use(pair) {
  clearTimeout(renewal);
  tokens = pair;
  fields.hidden = fields.disabled = pair !== null;
  account.hidden = account.disabled = pair === null;
  if (pair === null) {
    ui.getSystem().authActions.logout(["bearer"]);
  } else {
    ui.preauthorizeApiKey("bearer", pair.access_token);
    renewal = setTimeout(renew, 1000 * Math.max(pair.expires_in - EARLIER, pair.expires_in / 2));
  }
}

async function renew() {
  const { refresh_token } = tokens;
  tokens = null;
  try {
    use(await post("/refresh", { refresh_token }));
  } catch (error) {
    use(null);
    message.value = `Log in again. ${error.message}`;
  }
}

async function logIn() {
  const { username, password } = form.elements;
  use(await post("/login", { username: username.value, password: password.value }));
  form.querySelector("b").textContent = username.value;
  password.value = "";
}

async function logOut() {
  try {
    await post("/logout");
  } finally {
    use(null);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  message.value = "";
  try {
    await (tokens ? logOut() : logIn());
  } catch (error) {
    message.value = error.message;
  }
});
