/** Join tokens: make one, with the line to run on the device and its QR code; revoke one. */

import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ApiError, ask, part } from "../api";
import { Badge, Button, Code, Empty, Head, Labels, Loading, Trouble, When } from "../parts/basics";
import { Ask, Dialog } from "../parts/dialog";
import { Field, Select, Tick } from "../parts/fields";
import { useAsked } from "../parts/asked";
import { QrOf } from "../parts/qr_of";
import { Table } from "../parts/table";
import { may } from "../session";
import type { NewToken, Token } from "../types";
import { list, parseDuration, parseLabels } from "../words";

interface Made extends NewToken {
  type: string;
}

export function TokensPage({ me }: PageProps) {
  const { answer, error, reload } = useAsked<{ tokens: Token[] }>("/web/api/v1/tokens", 5000);
  const [adding, setAdding] = useState(false);
  const [made, setMade] = useState<Made | null>(null);
  const [removing, setRemoving] = useState<Token | null>(null);
  if (!answer) return error ? <Trouble error={error} again={() => void reload()} /> : <Loading />;
  const add = may(me, "tokens", "create") && (
    <Button kind="main" icon="plus" onClick={() => setAdding(true)}>
      New token
    </Button>
  );
  return (
    <>
      <Head title="Join tokens" note="A device joins with one, once or as often as it says.">
        {answer.tokens.length > 0 && add}
      </Head>
      <Trouble error={error} />
      {answer.tokens.length === 0 ? (
        <Empty icon="tokens" title="No token is good now">
          <p>A token lets one device, or many, join the cluster. It comes with the line to run there.</p>
          {add}
        </Empty>
      ) : (
        <Table
          label="Join tokens"
          rows={answer.tokens}
          id={(token) => token.id}
          columns={[
            {
              title: "Token",
              class: "name",
              show: (token) => (
                <>
                  <strong class="mono">{token.id}</strong>
                  <small>for a {token.type}</small>
                </>
              ),
            },
            { title: "Used", show: (token) => `${token.used} of ${token.uses ?? "any number"}` },
            { title: "Ends", class: "nowrap", show: (token) => <When at={token.expires} /> },
            {
              title: "Gives",
              show: (token) => (
                <>
                  <Labels of={token.labels} />
                  {token.name_template && <small class="mono">{token.name_template}</small>}
                  {token.pending && <Badge tone="warn">has to be accepted</Badge>}
                  {token.cidr.length > 0 && <small>from {token.cidr.join(", ")}</small>}
                </>
              ),
            },
            {
              title: "Actions",
              hidden: true,
              class: "actions",
              show: (token) =>
                may(me, "tokens", "delete") && (
                  <Button small icon="trash" aria-label={`Revoke ${token.id}`} onClick={() => setRemoving(token)}>
                    Revoke
                  </Button>
                ),
            },
          ]}
        />
      )}
      {adding && (
        <TokenDialog
          onClose={() => setAdding(false)}
          onDone={async (token) => {
            setAdding(false);
            setMade(token);
            await reload();
          }}
        />
      )}
      {made && <MadeDialog made={made} proxy={me.proxy} onClose={() => setMade(null)} />}
      {removing && (
        <Ask
          title={`Revoke the token ${removing.id}?`}
          yes="Revoke"
          danger
          onClose={() => setRemoving(null)}
          act={async () => {
            await ask(`/web/api/v1/tokens/${part(removing.id)}`, { method: "DELETE" });
            setRemoving(null);
            await reload();
          }}
        >
          <p>Nothing joins with it any more. What has joined stays.</p>
        </Ask>
      )}
    </>
  );
}

function TokenDialog({ onClose, onDone }: { onClose: () => void; onDone: (made: Made) => Promise<void> }) {
  const [type, setType] = useState("node");
  const [ttl, setTtl] = useState("30m");
  const [uses, setUses] = useState("1");
  const [labels, setLabels] = useState("");
  const [template, setTemplate] = useState("");
  const [cidr, setCidr] = useState("");
  const [pending, setPending] = useState(false);
  return (
    <Ask
      title="New token"
      yes="Make it"
      wide
      onClose={onClose}
      act={async () => {
        const seconds = parseDuration(ttl);
        const pairs = parseLabels(labels);
        if (seconds === null) throw new ApiError("bad_request", "How long it is good: a number and a letter.", "30m, 12h or 7d");
        if (pairs === null) throw new ApiError("bad_request", "A label is key=value.", "For example site=berlin, kind=gateway");
        const body = {
          type,
          ttl: seconds,
          uses: Number(uses),
          ...(type === "node" ? { labels: pairs, pending } : {}),
          ...(template ? { name_template: template } : {}),
          ...(cidr ? { cidr: list(cidr) } : {}),
        };
        await onDone({ ...(await ask<NewToken>("/web/api/v1/tokens", { method: "POST", body })), type });
      }}
    >
      <div class="columns">
        <Select
          label="What joins"
          value={type}
          onValue={setType}
          options={[
            ["node", "A node"],
            ["proxy", "A proxy"],
          ]}
        />
        <Field label="Good for" value={ttl} onValue={setTtl} required hint="30m, 12h, 7d" />
        <Field label="How many devices" type="number" min={1} max={1000000} value={uses} onValue={setUses} required />
      </div>
      {type === "node" && <Field label="Labels" value={labels} onValue={setLabels} spellcheck={false} hint="They decide who gets in: site=berlin, kind=gateway" />}
      <div class="columns">
        <Field label="Names" value={template} onValue={setTemplate} spellcheck={false} hint="pi-{serial}, {name}-{uuid8}; empty: as the device is called" />
        <Field label="Only from" value={cidr} onValue={setCidr} spellcheck={false} hint="Networks: 10.0.0.0/8. Empty: from anywhere" />
      </div>
      {type === "node" && <Tick label="An administrator accepts each device" on={pending} onTick={setPending} />}
    </Ask>
  );
}

function MadeDialog({ made, proxy, onClose }: { made: Made; proxy: string; onClose: () => void }) {
  // As tctl tokens add prints it. A proxy joins at auth, whose address this page does not know.
  const server = made.type === "node" ? proxy : "AUTH:3025";
  const start = `tinyport start --roles=${made.type} --server ${server} --token - --ca-pin ${made.ca_pins[0] ?? ""}`;
  const line = `printf '%s\\n' ${made.token} | ${start}`;
  return (
    <Dialog title="Run this on the device" onClose={onClose} wide>
      <div class="stack">
        <p>
          Good for {made.uses === 1 ? "one device" : `${made.uses} devices`}; it ends <When at={made.expires} />. The token is shown now and never again.
        </p>
        <div class="join-line">
          <Code text={line} label="Line to join by" />
          <QrOf text={line} label="QR code of the line to join by" />
        </div>
        <footer>
          <Button kind="main" onClick={onClose}>
            Done
          </Button>
        </footer>
      </div>
    </Dialog>
  );
}
