// The texts of the page in English and Portuguese, and the formats of dates and numbers.

const KEPT = "saldo-language"; // no secret: only which language was chosen

const EN = {
  "language": "Language",
  "skip": "Skip to content",
  "places": "Places",
  "accounts": "Accounts",
  "system": "System",
  "token": "Token",
  "token-title": "Access token",
  "token-why": "Saldo needs an access token. Paste a bearer token. It stays in this page's memory and is gone when you close or reload the page.",
  "token-label": "Bearer token",
  "token-use": "Use this token",
  "token-forget": "Forget the token",
  "cancel": "Cancel",
  "token-refused": "The token is not valid, or it has expired. Paste another one.",
  "token-empty": "Paste a token first.",
  "token-shape": "A token has three parts with dots between them. Did you copy all of it?",
  "forbidden-accounts": "This token does not allow reading balances (scope balances:read), or not for this account.",
  "forbidden-system": "This token does not allow the system view (scope system:read).",
  "forbidden-write": "This token does not allow recording here (scope transactions:write).",
  "other-token": "Use another token",
  "loading": "Loading…",
  "retrying": "Retrying automatically.",
  "down": "Saldo cannot be reached. What you see may be out of date.",
  "read-model-unavailable": "Balances cannot be read at the moment. What you see may be out of date.",
  "find-account": "Find or open an account",
  "find-short": "Find or open",
  "open": "Open",
  "account-id-bad": "An account id has 1 to 128 letters, digits and . _ ~ : @ -, and begins with a letter or digit.",
  "no-accounts": "No account yet",
  "no-accounts-hint": "Open one by its id and record its first transaction, or run make demo for a year of sample data.",
  "none-match": "No loaded account matches. Press Enter to open “{text}”.",
  "more-accounts": "More accounts",
  "back": "All accounts",
  "choose": "Choose an account",
  "choose-hint": "Its balance, its history and its statement appear here.",
  "balance": "Balance",
  "at-position": "after {n} events",
  "as-recorded": "last recorded {when}",
  "live": "Live",
  "connecting": "Connecting…",
  "waiting": "Reconnecting…",
  "stopped": "Not live",
  "behind": "{n} behind",
  "behind-hint": "These events are recorded, but not in this balance yet. The projection is catching up.",
  "blocked": "The projection of this account has stopped since {when}. An operator is needed. New transactions are still recorded safely.",
  "not-projected": "The account's first balance is being prepared.",
  "new-account": "Nothing is recorded here yet",
  "new-account-hint": "The first transaction that you record opens the account.",
  "cannot-load": "This could not be loaded.",
  "history": "Balance over time",
  "history-empty": "A chart appears with the first transaction.",
  "range": "Range",
  "range-30": "30 days",
  "range-90": "90 days",
  "range-365": "1 year",
  "range-all": "All",
  "chart-label": "Balance over time, from {from} to {to}. Use the arrow keys to move through the days.",
  "months": "Months as a table",
  "month": "Month",
  "income": "Income",
  "expense": "Expense",
  "closing": "Closing balance",
  "statement": "Statement",
  "search": "Search descriptions",
  "kind": "Kind",
  "all-kinds": "Income and expense",
  "from": "From",
  "to": "To",
  "clear": "Clear",
  "older": "Show older",
  "shown": "{n} lines shown",
  "all-shown": "All {n} lines shown",
  "no-lines": "Nothing matches",
  "no-lines-hint": "Try other words, or clear the filters.",
  "lines-max": "The page shows at most {n} lines. Narrow the search to see others.",
  "erased": "Description erased",
  "no-description": "No description",
  "reversal": "Reversal",
  "reversed": "Reversed",
  "happened": "Happened",
  "recorded": "Recorded",
  "position": "Position",
  "hash": "Hash",
  "transaction-id": "Transaction id",
  "copy": "Copy",
  "copied": "Copied",
  "record": "Record a transaction",
  "record-none": "Recording is not set up for this console (CONSOLE_RECORD_URL). It can only read.",
  "amount": "Amount",
  "description": "Description",
  "optional": "optional",
  "date": "Date",
  "date-today": "today",
  "record-income": "Record income",
  "record-expense": "Record expense",
  "recording": "Recording…",
  "recording-again": "No response yet. Retrying safely ({n})…",
  "amount-missing": "Enter an amount.",
  "amount-malformed": "This is not an amount. Write it as {example}.",
  "amount-digits": "At most {digits} decimals in this currency.",
  "amount-zero": "The amount must be more than zero.",
  "amount-large": "This is more than an account can hold.",
  "description-long": "At most {n} characters.",
  "date-bad": "Enter a date from 1900 to 2200.",
  "outcome-unknown": "No response came, so it is not known whether this was recorded. You can record it again safely: it has the same key and counts once.",
  "record-again": "Retry safely",
  "insufficient-funds": "Refused: the balance is {balance}, and the limit does not allow this.",
  "refused": "Refused: {why}",
  "receipt": "Receipt",
  "receipt-done": "Recorded: {amount}",
  "receipt-waiting": "The balance will include it in a moment.",
  "receipt-counted": "It is in the balance.",
  "receipt-replayed": "It was recorded before, and it counts once.",
  "verify": "Verify the chain",
  "verify-why": "Recompute every hash of this account in your browser, and compare them with the hashes that this page received before.",
  "verifying": "Verifying… {n} events",
  "verify-stop": "Stop",
  "verify-stopped": "Stopped.",
  "verify-cannot": "Browsers compute hashes only on https and on localhost.",
  "verify-no-recorder": "The events come from record_transaction, and this console does not have its address (CONSOLE_RECORD_URL).",
  "verify-max": "{n} events verified. There are more than this page can verify. Run saldo verify for the rest.",
  "chain-holds": "The chain holds",
  "chain-holds-detail": "{n} events recomputed; {m} hashes shown on this page agree. The last hash is",
  "chain-broken": "The chain is broken at position {n}",
  "broken-hash": "The event's text does not match its hash. The text or the hash was changed.",
  "broken-gap": "An event is missing at this position.",
  "broken-text": "The event's text belongs to another account or position.",
  "broken-receipt": "The event differs from the one that this page received before: history was rewritten.",
  "broken-missing": "An event that this page received before no longer exists.",
  "system-title": "System",
  "system-well": "Everything is up to date",
  "system-lags": "The read model is catching up",
  "system-outbox": "Events are waiting to be sent",
  "system-dead": "Something waits for an operator",
  "system-when": "Measured {when}",
  "throughput": "Throughput",
  "per-second": "events per second, over 10 s",
  "throughput-history": "Throughput since this page was opened",
  "total-events": "{n} events of {m} accounts",
  "lag": "Projection lag",
  "lag-positions": "events not yet in the balances",
  "lag-detail": "{s} at the last sweep, {when}",
  "outbox": "Outbox",
  "outbox-rows": "events waiting for Kafka",
  "outbox-age": "the oldest has waited {s}",
  "outbox-none": "nothing is waiting",
  "dead-letters": "Dead letters",
  "dead-waiting": "waiting to be redriven",
  "dead-oldest": "the oldest since {when}",
  "blocked-accounts": "Blocked accounts",
  "blocked-hint": "whose projection has stopped",
  "blocked-oldest": "the first since {when}",
  "none": "none",
  "no-sweep": "no sweep yet",
};

const PT = {
  "language": "Idioma",
  "skip": "Ir para o conteúdo",
  "places": "Lugares",
  "accounts": "Contas",
  "system": "Sistema",
  "token": "Token",
  "token-title": "Token de acesso",
  "token-why": "Este Saldo pergunta quem você é. Cole um bearer token; ele fica na memória desta página e some quando você a fecha ou recarrega.",
  "token-label": "Bearer token",
  "token-use": "Usar este token",
  "token-forget": "Esquecer o token",
  "cancel": "Cancelar",
  "token-refused": "O token não é válido, ou não é mais. Cole outro.",
  "token-empty": "Cole um token primeiro.",
  "token-shape": "Um token tem três partes separadas por pontos. Ele foi copiado inteiro?",
  "forbidden-accounts": "Este token não permite ler saldos (escopo balances:read), ou não os desta conta.",
  "forbidden-system": "Este token não permite ver o sistema (escopo system:read).",
  "forbidden-write": "Este token não permite registrar aqui (escopo transactions:write).",
  "other-token": "Usar outro token",
  "loading": "Carregando…",
  "retrying": "Tentando de novo.",
  "down": "O Saldo está fora de alcance. O que você vê pode estar desatualizado.",
  "read-model-unavailable": "Os saldos não podem ser lidos no momento. O que você vê pode estar desatualizado.",
  "find-account": "Buscar ou abrir uma conta",
  "find-short": "Buscar ou abrir",
  "open": "Abrir",
  "account-id-bad": "O id de uma conta tem de 1 a 128 letras, dígitos e . _ ~ : @ -, e começa com letra ou dígito.",
  "no-accounts": "Nenhuma conta ainda",
  "no-accounts-hint": "Abra uma pelo id e registre a primeira transação, ou rode make demo para ter um ano de exemplos.",
  "none-match": "Nenhuma conta carregada corresponde. Tecle Enter para abrir “{text}”.",
  "more-accounts": "Mais contas",
  "back": "Todas as contas",
  "choose": "Escolha uma conta",
  "choose-hint": "O saldo, a evolução e o extrato aparecem aqui.",
  "balance": "Saldo",
  "at-position": "após {n} eventos",
  "as-recorded": "último registro {when}",
  "live": "Ao vivo",
  "connecting": "Conectando…",
  "waiting": "Reconectando…",
  "stopped": "Sem conexão ao vivo",
  "behind": "faltam {n}",
  "behind-hint": "Registrado, mas ainda não neste saldo: a projeção está alcançando.",
  "blocked": "A projeção desta conta parou desde {when}: é preciso um operador. O que for registrado enquanto isso está seguro.",
  "not-projected": "O primeiro saldo da conta está a caminho.",
  "new-account": "Nada registrado aqui ainda",
  "new-account-hint": "A primeira transação que você registrar abre a conta.",
  "cannot-load": "Não foi possível carregar.",
  "history": "Evolução do saldo",
  "history-empty": "O gráfico aparece com a primeira transação.",
  "range": "Período",
  "range-30": "30 dias",
  "range-90": "90 dias",
  "range-365": "1 ano",
  "range-all": "Tudo",
  "chart-label": "Evolução do saldo, de {from} a {to}. As setas percorrem os dias.",
  "months": "Meses em tabela",
  "month": "Mês",
  "income": "Receita",
  "expense": "Despesa",
  "closing": "Saldo final",
  "statement": "Extrato",
  "search": "Buscar nas descrições",
  "kind": "Tipo",
  "all-kinds": "Receitas e despesas",
  "from": "De",
  "to": "Até",
  "clear": "Limpar",
  "older": "Mostrar mais antigas",
  "shown": "{n} linhas mostradas",
  "all-shown": "{n} linhas, todas",
  "no-lines": "Nada encontrado",
  "no-lines-hint": "Tente outras palavras ou limpe os filtros.",
  "lines-max": "{n} linhas são mostradas, que é o máximo. Restrinja a busca para ver outras.",
  "erased": "Descrição apagada",
  "no-description": "Sem descrição",
  "reversal": "Estorno",
  "reversed": "Estornada",
  "happened": "Ocorreu",
  "recorded": "Registrada",
  "position": "Posição",
  "hash": "Hash",
  "transaction-id": "Id da transação",
  "copy": "Copiar",
  "copied": "Copiado",
  "record": "Registrar transação",
  "record-none": "Este console só lê: o registro não está configurado. (CONSOLE_RECORD_URL)",
  "amount": "Valor",
  "description": "Descrição",
  "optional": "opcional",
  "date": "Data",
  "date-today": "hoje",
  "record-income": "Registrar receita",
  "record-expense": "Registrar despesa",
  "recording": "Registrando…",
  "recording-again": "Ainda sem resposta. Tentando de novo com segurança ({n})…",
  "amount-missing": "Informe um valor.",
  "amount-malformed": "Isto não é um valor. Escreva como {example}.",
  "amount-digits": "No máximo {digits} casas decimais nesta moeda.",
  "amount-zero": "O valor deve ser maior que zero.",
  "amount-large": "É mais do que cabe em uma conta.",
  "description-long": "No máximo {n} caracteres.",
  "date-bad": "Informe uma data de 1900 a 2200.",
  "outcome-unknown": "Não houve resposta: não se sabe se foi registrado. Registrar de novo é seguro: leva a mesma chave e conta uma só vez.",
  "record-again": "Tentar de novo com segurança",
  "insufficient-funds": "Recusado: o saldo é {balance}, e o limite não permite.",
  "refused": "Recusado: {why}",
  "receipt": "Comprovante",
  "receipt-done": "Registrado: {amount}",
  "receipt-waiting": "O saldo o incluirá em instantes.",
  "receipt-counted": "Já está no saldo.",
  "receipt-replayed": "Já estava registrado; conta uma só vez.",
  "verify": "Verificar a cadeia",
  "verify-why": "Recalcula no seu navegador todos os hashes desta conta e os compara com o que foi dito a esta página.",
  "verifying": "Verificando… {n} eventos",
  "verify-stop": "Parar",
  "verify-stopped": "Parado.",
  "verify-cannot": "Navegadores só calculam hashes em https e em localhost.",
  "verify-no-recorder": "Os eventos vêm de record_transaction, cujo endereço este console não tem. (CONSOLE_RECORD_URL)",
  "verify-max": "{n} eventos conferem. Há mais do que esta página verifica; saldo verify faz o resto.",
  "chain-holds": "A cadeia confere",
  "chain-holds-detail": "{n} eventos recalculados; {m} hashes mostrados nesta página conferem. Ela termina em",
  "chain-broken": "A cadeia está rompida na posição {n}",
  "broken-hash": "O texto do evento não dá o seu hash: o texto ou o hash foi alterado.",
  "broken-gap": "Falta um evento ali.",
  "broken-text": "O texto do evento é de outra conta ou posição.",
  "broken-receipt": "O evento não é o que foi dito a esta página: a história foi reescrita.",
  "broken-missing": "Um evento que foi dito a esta página não existe mais.",
  "system-title": "Sistema",
  "system-well": "Tudo em dia",
  "system-lags": "O modelo de leitura está alcançando",
  "system-outbox": "Eventos esperam o envio",
  "system-dead": "Algo espera um operador",
  "system-when": "Medido {when}",
  "throughput": "Vazão",
  "per-second": "eventos por segundo, em 10 s",
  "throughput-history": "Vazão desde que esta página foi aberta",
  "total-events": "{n} eventos de {m} contas",
  "lag": "Atraso da projeção",
  "lag-positions": "eventos ainda fora dos saldos",
  "lag-detail": "{s} na última varredura, {when}",
  "outbox": "Outbox",
  "outbox-rows": "eventos à espera do Kafka",
  "outbox-age": "o mais antigo espera há {s}",
  "outbox-none": "nada espera",
  "dead-letters": "Dead letters",
  "dead-waiting": "esperam reenvio",
  "dead-oldest": "a mais antiga desde {when}",
  "blocked-accounts": "Contas bloqueadas",
  "blocked-hint": "cuja projeção parou",
  "blocked-oldest": "a primeira desde {when}",
  "none": "nenhuma",
  "no-sweep": "nenhuma varredura ainda",
};

export const LANGUAGES = { en: { name: "English", texts: EN }, pt: { name: "Português", texts: PT } };

let language = chosen();

function chosen() {
  let kept = null;
  try {
    kept = localStorage.getItem(KEPT);
  } catch {
    // Storage may be forbidden. Use the browser's language then.
  }
  if (kept in LANGUAGES) return kept;
  const wanted = navigator.languages.map((each) => each.slice(0, 2).toLowerCase());
  return wanted.find((each) => each in LANGUAGES) ?? "en";
}

export function languageNow() {
  return language;
}

export function choose(name) {
  language = name;
  try {
    localStorage.setItem(KEPT, name);
  } catch {
    // The choice then lasts until the page is closed.
  }
}

/** The browser's locale if it has the chosen language, so that dates follow its country. */
export function locale() {
  const own = navigator.languages.find((each) => each.toLowerCase().startsWith(language));
  return own ?? { en: "en-GB", pt: "pt-BR" }[language];
}

export function t(key, facts = {}) {
  const text = LANGUAGES[language].texts[key] ?? EN[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => facts[name] ?? "");
}

export function has(key) {
  return key in EN;
}

export function number(value, options = {}) {
  return new Intl.NumberFormat(locale(), options).format(value);
}

/** A day, given as `2026-11-24` or as a moment. */
export function day(text, style = "medium") {
  const plain = /^\d{4}-\d\d-\d\d$/.test(text);
  const format = new Intl.DateTimeFormat(locale(), { dateStyle: style, timeZone: plain ? "UTC" : undefined });
  return format.format(new Date(plain ? `${text}T00:00:00Z` : text));
}

export function month(text) {
  const format = new Intl.DateTimeFormat(locale(), { month: "long", year: "numeric", timeZone: "UTC" });
  return format.format(new Date(`${text}-01T00:00:00Z`));
}

export function moment(text, precise = false) {
  const style = precise ? "medium" : "short";
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: style }).format(new Date(text));
}

export function seconds(value) {
  const unit = value < 120 ? "second" : value < 7200 ? "minute" : "hour";
  const size = { second: 1, minute: 60, hour: 3600 }[unit];
  return number(value / size, { style: "unit", unit, maximumFractionDigits: value < 10 ? 1 : 0 });
}
