// Starts Swagger UI. A file of its own, so that the page needs no inline script.
const container = document.getElementById("swagger-ui");
window.ui = SwaggerUIBundle({
  url: container.dataset.document,
  domNode: container,
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // The value of a parameter that has no default: for an object, it would make one up.
  parameterMacro: () => "",
  validatorUrl: null, // no request may leave this host
});
