// What unit tests reach of the SDK besides its public face: one bundle, so that there is one of each class.
export * from "../sdk/index.js";
export { english } from "../element/texts.js";
export { Calls } from "../sdk/calls.js";
export { ServerClock } from "../sdk/clock.js";
export { toRimlightError } from "../sdk/errors.js";
export { Routers } from "../sdk/routers.js";
export { deriveTokenId, purchaseIdOf } from "../sdk/verify.js";
export { fromHex, hex } from "../sdk/bytes.js";
export { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
export { OfferService } from "../../gen/ts/rimlight/offer/v1/offer_service_pb.js";
export { DropState } from "../../gen/ts/rimlight/offer/v1/drop_pb.js";
export { seal } from "../sdk/seal.js";
export { SealedDetailsSchema } from "../../gen/ts/rimlight/offer/v1/sealed_pb.js";
export { fromBinary } from "@bufbuild/protobuf";
