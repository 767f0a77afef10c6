// Runs in node: a router's admin RPCs over a fleet that is made up, as protobuf messages.
import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { CatalogService, ListDropsResponseSchema } from "../../gen/ts/rimlight/fulfillment/v1/catalog_service_pb.js";
import { RegionMode } from "../../gen/ts/rimlight/region/v1/load_pb.js";
import {
  GetRttMatrixResponseSchema, ListDecisionsResponseSchema, ListMembersResponseSchema, ListSlipsResponseSchema, RouterAdminService,
  WatchRegionsResponseSchema, WatchSlipsRequestSchema, WatchSlipsResponseSchema,
} from "../../gen/ts/rimlight/router/v1/router_admin_service_pb.js";

const PLACES = ["us-central1", "europe-west3", "asia-southeast1", "southamerica-east1", "us-east4", "europe-north1", "asia-northeast1", "me-west1", "nowhere"];
const ROUTERS = ["europe-west1", "us-west1", "asia-south1"];

const encode = <D extends DescMessage>(schema: D, init: MessageInitShape<D>) => toBinary(schema, create(schema, init));
const ms = (v: number) => ({ seconds: BigInt(Math.floor(v / 1e3)), nanos: Math.round((v % 1e3) * 1e6) });
const nameOf = (i: number) => `${PLACES[i % PLACES.length]}-${i}`;

/** What a second of the fleet looks like: every region's numbers move. */
function second(regions: number, t: number): Uint8Array {
  return encode(WatchRegionsResponseSchema, {
    regions: Array.from({ length: regions }, (_, i) => ({
      name: nameOf(i), nodeId: `node-${i}`, address: `10.0.${i >> 8}.${i & 255}:8080`, mode: RegionMode.SERVING, reachable: i % 97 !== 5,
      share: (1 + Math.sin(i + t / 30)) / regions, network: ms(10 + ((i * 7) % 250)), service: ms(3), inFlight: (i + t) % 8, parallelism: 8,
      successRate: 1, journalLag: BigInt((i * t) % 11), median: ms(12 + ((i * 7) % 250)), p99: ms(40 + ((i * 7 + t) % 300)),
      lateShare: i % 41 === 3 ? 0.2 : 0, stock: [{ dropId: "d1", untouched: (i + t) % 9, soldOut: false }], version: "v1",
    })),
  });
}

/** The paths of the streams, for counting. */
export const WATCH_REGIONS = `/${RouterAdminService.typeName}/WatchRegions`;
export const WATCH_SLIPS = `/${RouterAdminService.typeName}/WatchSlips`;

export const resumeTokenOf = (request: Uint8Array) => fromBinary(WatchSlipsRequestSchema, request).resumeToken;

/** The messages of a stream. */
export const streamed = {
  second,
  slips: () => encode(WatchSlipsResponseSchema, { update: { case: "snapshot", value: { slips: [] } }, resumeToken: "first" }),
};

/** The one answer of each unary call, by path. */
export function answers(regions: number): Map<string, Uint8Array> {
  const of = (method: string) => `/${RouterAdminService.typeName}/${method}`;
  return new Map([
    [of("GetRttMatrix"), encode(GetRttMatrixResponseSchema, {
      cells: ROUTERS.flatMap((router, r) => Array.from({ length: regions }, (_, i) => ({ router, region: nameOf(i), rtt: ms(5 + ((i * 13 + r * 50) % 280)) }))),
    })],
    [of("ListSlips"), encode(ListSlipsResponseSchema, {})],
    [of("ListDecisions"), encode(ListDecisionsResponseSchema, {})],
    [of("ListMembers"), encode(ListMembersResponseSchema, { members: Array.from({ length: regions }, (_, i) => ({ memberName: `region/${nameOf(i)}`, name: nameOf(i), gossipState: "alive" })) })],
    [`/${CatalogService.typeName}/ListDrops`, encode(ListDropsResponseSchema, { drops: [{ drop: { drop: { dropId: "d1", channelId: "aurora", title: "A thing" }, units: 5000 }, stock: { units: 5000, free: 1000, leased: 4000 } }] })],
  ]);
}
