/** What the API answers (docs/web.md, docs/protocol/api.md), as far as the page looks at it. Times are Unix seconds. */

export type Verb = "read" | "create" | "update" | "delete" | "sign" | "join" | "list" | "read_own";

export interface Whoami {
  user: string;
  cluster: string;
  roles: string[];
  logins: string[];
  may: Record<string, Verb[]>;
  ends: number;
  session: string;
  csrf: string;
  proxy: string;
}

export interface Totp {
  secret: string;
  uri: string;
  qr: string[];
}

export interface Invitation {
  user: string;
  expires: number;
  cluster: string;
  second_factor: "off" | "optional" | "required";
  totp?: Totp;
}

export interface Copy {
  id: string;
  online: boolean;
  peer: string;
  found: number;
  last_seen: number;
  split: boolean;
}

export interface Node {
  uuid: string;
  name: string;
  status: "online" | "offline" | "pending" | "quarantined";
  last_seen: number | null;
  /** not of another cluster's nodes */
  addresses?: string[];
  peer?: string;
  labels: Record<string, string>;
  declared_labels: Record<string, string>;
  version: string;
  created: number;
  /** not of another cluster's nodes */
  proxies?: string[];
  /** bytes on the wire, by day and month as UTC has them; null: no proxy has told of any */
  traffic?: { today?: number; month?: number; budget?: number; over?: boolean } | null;
  /** other devices that have its identity */
  copies?: Copy[];
  /** of a pending one: the node that had its serial number before */
  same_serial?: { name: string; status: Node["status"]; last_seen: number | null } | null;
  /** the board's number, as the device says; "": it has not */
  serial?: string;
  /** of the host key, while it waits or is quarantined */
  fingerprint?: string | null;
  /** the lock that keeps people from it now */
  locked?: { id: string; expires: number | null; message: string } | null;
}

export interface LiveSession {
  id: string;
  user: string;
  login: string;
  node: string;
  kind: string;
  since: number;
  state: "live" | "lost" | "ending";
  /** as what one may join it */
  join?: ("observer" | "peer")[];
  parties?: { user: string; mode: string }[];
  command?: string;
}

export interface Recording {
  id: string;
  user: string;
  login: string;
  node: string;
  kind: string;
  started: number;
  ended: number | null;
  seconds: number;
  bytes: number;
  state: "live" | "complete" | "incomplete";
  lost: number;
  parties?: { user: string; mode: string }[];
  command?: string;
  columns?: number;
  rows?: number;
  reason?: string;
}

export interface AuditEvent {
  id: number;
  time: number | string;
  event: string;
  code: string;
  [field: string]: unknown;
}

export interface User {
  name: string;
  roles: string[];
  logins: string[];
  traits: Record<string, string[]>;
  created: number;
  invited: boolean;
  locked_until: number | null;
}

export interface Conditions {
  logins?: string[];
  node_labels?: Record<string, string[]>;
  rules?: { resources: string[]; verbs: string[] }[];
}

export interface Role {
  kind: "role";
  name: string;
  allow?: Conditions;
  deny?: Conditions;
  options?: Record<string, unknown>;
}

export interface Token {
  id: string;
  type: string;
  created: number;
  expires: number;
  uses: number | null;
  used: number;
  labels: Record<string, string>;
  name_template: string;
  cidr: string[];
  pending: boolean;
}

export interface NewToken {
  id: string;
  token: string;
  expires: number;
  uses: number;
  ca_pins: string[];
}

export interface Lock {
  id: string;
  target: Record<string, string>;
  expires: number | null;
  message: string;
  created: number;
  created_by: string;
}

export interface WebSession {
  id: string;
  user: string;
  source: string;
  agent: string;
  created: number;
  seen: number;
  ends: number;
}

export interface Factor {
  id: string;
  name: string;
  type: string;
  created: number;
}
