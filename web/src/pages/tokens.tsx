import { Head } from "../parts/basics";

export function TokensPage() {
  return <Head title="Join tokens" />;
}
