"""The pages: the inbox of approvers on loopback, and the console of a team at an origin. They run no tool."""
