// Ann in the US pays Ben in the EU, by @grpc/grpc-js, the router's one address, and stubs made from the protos.
//
//   cellbook up                         # in another terminal
//   npm ci && npm run stubs && npm run build && npm start 127.0.0.1:7400
//
// With a cluster that wants proof: CELLBOOK_CA (a PEM file) and CELLBOOK_TOKEN, and the router's public port.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { credentials, Metadata, ServiceError, status } from "@grpc/grpc-js";
import {
  DepositRequest,
  DepositResponse,
  GetBalanceRequest,
  GetBalanceResponse,
  LedgerServiceClient,
  TransferRequest,
  TransferResponse,
} from "../gen/cellbook/v1/ledger";
import { RegisterUserRequest, RegisterUserResponse, RouterServiceClient } from "../gen/cellbook/v1/router";

// What grpc-js makes of the one in docs/clients.md: what was cut is sent again. It asks for no health and waits for no
// process to serve, and need not: a process that stands by forwards to the leader, and waits for one.
const serviceConfig = JSON.stringify({
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.5s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE", "CANCELLED"],
      },
    },
  ],
});
const UNKNOWN = new Set([status.UNAVAILABLE, status.DEADLINE_EXCEEDED, status.ABORTED]);

type Answer<T> = (error: ServiceError | null, value: T) => void;
type Call<T> = (metadata: Metadata, options: { deadline: number }, answer: Answer<T>) => unknown;

/** A call with a deadline of ten seconds, as a promise. */
function call<T>(role: string, method: Call<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + 10_000 };
    method(whoever(role), options, (error, value) => (error ? reject(error) : resolve(value)));
  });
}

/** Proof of who calls; in development a word is enough. */
function whoever(role: string): Metadata {
  const metadata = new Metadata();
  const token = process.env.CELLBOOK_TOKEN;
  if (token) metadata.set("authorization", `Bearer ${token}`);
  else metadata.set("cellbook-principal", `${role}/example`);
  return metadata;
}

/** Asks again, with the same commandId, while nothing definite is known: it happens once. */
async function transferred(ledger: LedgerServiceClient, request: TransferRequest): Promise<TransferResponse> {
  for (const giveUp = Date.now() + 60_000; ; ) {
    try {
      return await call<TransferResponse>("service", (m, o, answer) => ledger.transfer(request, m, o, answer));
    } catch (error) {
      if (!UNKNOWN.has((error as ServiceError).code) || Date.now() > giveUp) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

async function main(address: string): Promise<void> {
  const ca = process.env.CELLBOOK_CA;
  const security = ca ? credentials.createSsl(readFileSync(ca)) : credentials.createInsecure();
  const options = { "grpc.service_config": serviceConfig };
  const router = new RouterServiceClient(address, security, options);
  const ledger = new LedgerServiceClient(address, security, options);
  const [ann, ben] = [randomUUID(), randomUUID()];
  for (const [userId, region] of [[ann, "us"], [ben, "eu"]]) {
    const request = RegisterUserRequest.fromPartial({ userId, region });
    const told = await call<RegisterUserResponse>("service", (m, o, answer) => router.registerUser(request, m, o, answer));
    console.log(`${userId} is at home in ${told.home?.cell}`);
  }
  const deposit = DepositRequest.fromPartial({
    commandId: randomUUID(),
    userId: ann,
    amount: { currency: "USD", amountMinor: 100_00n },
    externalReference: `statement/${randomUUID()}`,
  });
  await call<DepositResponse>("treasury", (m, o, answer) => ledger.deposit(deposit, m, o, answer));
  const payment = TransferRequest.fromPartial({
    commandId: randomUUID(),
    fromUserId: ann,
    toUserId: ben,
    amount: { currency: "USD", amountMinor: 12_50n },
  });
  await transferred(ledger, payment);
  // As after a lost answer: the same command, the same outcome, and no money moves.
  const again = await transferred(ledger, payment);
  console.log(`sent again, it was replayed: ${again.receipt?.replayed}`);
  for (const [name, userId] of [["ann", ann], ["ben", ben]]) {
    const request = GetBalanceRequest.fromPartial({ userId });
    const told = await call<GetBalanceResponse>("service", (m, o, answer) => ledger.getBalance(request, m, o, answer));
    console.log(`${name} has ${told.balances[0].availableMinor} ${told.balances[0].currency}`);
  }
  const tooMuch = { ...payment, commandId: randomUUID(), amount: { currency: "USD", amountMinor: 1_000_000n } };
  await transferred(ledger, tooMuch).catch((refusal: ServiceError) => console.log(`refused: ${refusal.details}`));
  router.close();
  ledger.close();
}

main(process.argv[2] ?? "127.0.0.1:7400").catch((error) => {
  console.error(error);
  process.exit(1);
});
