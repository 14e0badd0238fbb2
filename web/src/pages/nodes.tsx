/** The nodes one may see: find one, connect to it, and for administrators label or remove it. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ApiError, ask, part } from "../api";
import { Button, Empty, Head, Labels, Loading, Search, Trouble } from "../parts/basics";
import { Copies, standing, State } from "../parts/devices";
import { Ask } from "../parts/dialog";
import { Area } from "../parts/fields";
import { useAsked } from "../parts/asked";
import { type Column, Table } from "../parts/table";
import { go, link } from "../routes";
import { may } from "../session";
import { openTerminal } from "../terminal/tabs";
import type { Node, Whoami } from "../types";
import { labelsText, parseLabels, size } from "../words";

/** rows at once; a fleet of thousands is searched, not scrolled */
const MOST = 200;

interface Elsewhere {
  name: string;
  online?: boolean;
}

export function NodesPage({ me }: PageProps) {
  const elsewhere = useAsked<{ clusters: Elsewhere[] }>("/web/api/v1/clusters").answer?.clusters ?? [];
  const [cluster, setCluster] = useState("");
  return (
    <Nodes
      key={cluster}
      me={me}
      cluster={cluster}
      choice={
        elsewhere.length > 0 && (
          <label class="cluster-choice">
            <span class="hidden">Cluster</span>
            <select value={cluster} onChange={(event) => setCluster(event.currentTarget.value)}>
              <option value="">{me.cluster}</option>
              {elsewhere.map((one) => (
                <option key={one.name} value={one.name}>
                  {one.name}
                  {one.online === false ? " (away)" : ""}
                </option>
              ))}
            </select>
          </label>
        )
      }
    />
  );
}

/** The nodes of one cluster: of this one (""), or of another that trusts it. */
function Nodes({ me, cluster, choice }: PageProps & { cluster: string; choice: ComponentChildren }) {
  const path = cluster ? `/web/api/v1/nodes?cluster=${part(cluster)}` : "/web/api/v1/nodes";
  // Another cluster is asked through an SSH connection of its own each time.
  const { answer, error, reload } = useAsked<{ nodes: Node[] }>(path, cluster ? 30_000 : 5000);
  const [text, setText] = useState("");
  const [only, setOnly] = useState<"all" | "online">("all");
  const [labelling, setLabelling] = useState<Node | null>(null);
  const [removing, setRemoving] = useState<Node | null>(null);
  if (!answer) {
    return (
      <>
        <Head title="Nodes">{choice}</Head>
        {error ? <Trouble error={error} again={() => void reload()} /> : <Loading />}
      </>
    );
  }
  const nodes = answer.nodes.filter((node) => node.status !== "pending");
  const online = nodes.filter((node) => standing(node) === "online").length;
  const found = nodes.filter((node) => (only === "all" || standing(node) === "online") && mentions(node, text)).sort(byStatusAndName);
  const columns: Column<Node>[] = [
    {
      title: "Node",
      class: "name",
      show: (node) => (
        <>
          <strong>{node.name}</strong>
          <small>
            <span class="mono">{node.uuid.slice(0, 8)}</span>
            {node.version && `, ${node.version}`}
          </small>
          <Copies of={node.copies ?? []} />
        </>
      ),
    },
    {
      title: "Status",
      show: (node) => (
        <>
          <State node={node} />
          {node.traffic?.month ? (
            <small>
              {size(node.traffic.today ?? 0)} today{node.traffic.over && ", over budget"}, {size(node.traffic.month)} this month
            </small>
          ) : null}
        </>
      ),
    },
    {
      title: "Labels",
      class: "wide",
      show: (node) => (
        <>
          <Labels of={node.labels} />
          <Labels of={undeclared(node)} dim />
        </>
      ),
    },
    {
      title: "Actions",
      hidden: true,
      class: "actions",
      show: (node) => (
        <>
          <Connect me={me} node={node} cluster={cluster} />
          {!cluster && may(me, "nodes", "update") && <Button kind="quiet" icon="tag" aria-label={`Labels of ${node.name}`} title="Labels" onClick={() => setLabelling(node)} />}
          {!cluster && may(me, "nodes", "delete") && <Button kind="quiet" icon="trash" aria-label={`Remove ${node.name}`} title="Remove" onClick={() => setRemoving(node)} />}
        </>
      ),
    },
  ];
  return (
    <>
      <Head title="Nodes" note={nodes.length ? `${online} of ${nodes.length} online` : undefined}>
        {choice}
        {nodes.length > 0 && (
          <>
            <Search label="Name, label, address" value={text} onInput={setText} />
            <Button aria-pressed={only === "online"} onClick={() => setOnly(only === "online" ? "all" : "online")}>
              Online only
            </Button>
          </>
        )}
      </Head>
      <Trouble error={error} />
      {!nodes.length && <NoNodes me={me} cluster={cluster} />}
      {nodes.length > 0 && !found.length && (
        <Empty icon="search" title="Nothing fits">
          <p>Words are looked for in names, labels and addresses.</p>
          <Button
            onClick={() => {
              setText("");
              setOnly("all");
            }}
          >
            Show all {nodes.length}
          </Button>
        </Empty>
      )}
      {found.length > 0 && <Table label="Nodes" columns={columns} rows={found.slice(0, MOST)} id={(node) => node.uuid} />}
      {found.length > MOST && (
        <p class="more">
          {MOST} of {found.length} are shown. Search to see the others.
        </p>
      )}
      {labelling && <LabelDialog node={labelling} onClose={() => setLabelling(null)} onDone={reload} />}
      {removing && (
        <Ask
          title={`Remove ${removing.name}?`}
          yes="Remove"
          danger
          onClose={() => setRemoving(null)}
          act={async () => {
            await ask(`/web/api/v1/nodes/${part(removing.uuid)}`, { method: "DELETE" });
            setRemoving(null);
            await reload();
          }}
        >
          <p>Its certificate is good for nothing from now on, and its sessions end. To come back it has to join again, with a new token.</p>
        </Ask>
      )}
    </>
  );
}

function NoNodes({ me, cluster }: { me: Whoami; cluster: string }) {
  if (cluster) {
    return (
      <Empty icon="nodes" title="No nodes for you there">
        <p>{cluster} decides by what it lets people of this cluster see. Its administrators can tell.</p>
      </Empty>
    );
  }
  return (
    <Empty icon="nodes" title="No nodes yet">
      {may(me, "tokens", "create") ? (
        <>
          <p>Make a token, and run the line that comes with it on the first device.</p>
          <a class="button main" href={link("tokens")}>
            Add a node
          </a>
        </>
      ) : (
        <p>Either none has joined, or your roles ({me.roles.join(", ") || "none"}) show you none. An administrator can tell.</p>
      )}
    </Empty>
  );
}

/** "Connect as": with one login a button, with several a choice, which is remembered. */
function Connect({ me, node, cluster }: { me: Whoami; node: Node; cluster: string }) {
  const [login, setLogin] = useState(() => lastLogin(me));
  if (!me.logins.length) return <span class="dim">no login</span>;
  const connect = () => {
    keepLogin(login);
    openTerminal(node.name, login, cluster);
    go("terminals");
  };
  return (
    <span class="connect">
      {me.logins.length > 1 && (
        <select value={login} aria-label={`Login on ${node.name}`} onChange={(event) => setLogin(event.currentTarget.value)}>
          {me.logins.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      )}
      <Button small kind="main" icon="terminal" disabled={standing(node) !== "online"} aria-label={`Connect to ${node.name} as ${login}`} onClick={connect}>
        {me.logins.length > 1 ? "Connect" : `Connect as ${login}`}
      </Button>
    </span>
  );
}

const LOGIN = "tinyport.login";

function lastLogin(me: Whoami): string {
  let last: string | null = null;
  try {
    last = localStorage.getItem(LOGIN);
  } catch {
    // Then the first.
  }
  return last && me.logins.includes(last) ? last : (me.logins[0] ?? "");
}

function keepLogin(login: string): void {
  try {
    localStorage.setItem(LOGIN, login);
  } catch {
    // Then it is chosen again.
  }
}

function LabelDialog({ node, onClose, onDone }: { node: Node; onClose: () => void; onDone: () => Promise<void> }) {
  const [text, setText] = useState(labelsText(node.labels).replaceAll(", ", "\n"));
  return (
    <Ask
      title={`Labels of ${node.name}`}
      yes="Save"
      onClose={onClose}
      act={async () => {
        const wanted = parseLabels(text);
        if (!wanted) throw new ApiError("bad_request", "A label is key=value.", "One on each line, for example site=berlin");
        const gone = Object.fromEntries(Object.keys(node.labels).filter((key) => !(key in wanted)).map((key) => [key, null]));
        await ask(`/web/api/v1/nodes/${part(node.uuid)}`, { method: "PATCH", body: { labels: { ...gone, ...wanted } } });
        onClose();
        await onDone();
      }}
    >
      <Area label="Labels" rows={6} value={text} onValue={setText} hint="One key=value on each line. Roles let people in by these labels, and only an administrator sets them." />
    </Ask>
  );
}

function mentions(node: Node, text: string): boolean {
  const all = [node.name, node.uuid, ...(node.addresses ?? []), node.peer ?? "", labelsText(node.labels), labelsText(node.declared_labels)].join("\n").toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

function undeclared(node: Node): Record<string, string> {
  return Object.fromEntries(Object.entries(node.declared_labels).filter(([key]) => !(key in node.labels)));
}

function byStatusAndName(a: Node, b: Node): number {
  const rank = (node: Node) => (standing(node) === "online" ? 0 : 1);
  return rank(a) - rank(b) || a.name.localeCompare(b.name, undefined, { numeric: true });
}
